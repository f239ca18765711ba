// Where the time of steps goes: seconds by kernel, apart for steps of one token, of a few and of many.
//
//   Profile profile;  profile.begin(tokens);  profile.add("linear.amx.i4.a8", seconds);  profile.end(step_seconds);
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
  void begin(int tokens);                          // a step starts
  void add(const char* what, double seconds);      // one launch with the barrier after it
  void end(double seconds);                        // the whole step
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
  Class* now_ = &classes_[0];
};

}  // namespace ingot::cpu
