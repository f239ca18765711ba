// Where the time of steps goes: seconds by kernel, apart for steps of one token, of a few and of many.
//
//   Profile profile;  profile.begin(tokens, now);  profile.add("linear.amx.i4.a8", seconds);  profile.end(now);
//   std::string table = profile.table();
//
// Thread rule: the first thread of the team.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace ingot::cpu {

class Profile {
 public:
  void begin(int tokens, double now);              // a step starts; what passed since one of the same class is "(between steps)"
  void add(const char* what, double seconds);      // one launch with the barrier after it
  void end(double now);
  std::string table() const;                       // "" if no step was seen

 private:
  struct Line {
    int64_t calls = 0;
    double seconds = 0;
  };
  struct Class {  // steps of one range of tokens
    int64_t steps = 0, tokens = 0;
    double seconds = 0;
    std::map<std::string_view, Line> lines;  // keys: kernel names, which live as long as the process
  };
  Class classes_[4];
  Class* class_ = nullptr;  // of the running or last step
  double begin_ = 0, end_ = 0;
};

}  // namespace ingot::cpu
