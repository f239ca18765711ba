#include "base/files.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

#include "base/test_folder.h"

namespace ingot {
namespace {

std::string error_of(const auto& result) { return result.ok() ? "" : result.error().message(); }

// A named pipe in a model's folder would make open() wait for ever.
TEST(Files, NameWhatIsNoRegularFile) {
  TestFolder folder;
  ASSERT_EQ(::mkfifo(folder.at("pipe").c_str(), 0600), 0);
  std::filesystem::create_directory(folder.at("folder"));
  const int s = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, folder.at("socket").c_str(), sizeof address.sun_path - 1);
  ASSERT_EQ(::bind(s, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  for (const auto& [name, kind] : {std::pair{"pipe", "a named pipe"}, {"folder", "a folder"}, {"socket", "a socket"}}) {
    const std::string want = cat("cannot open ", folder.at(name), ": it is ", kind, ", want a regular file");
    EXPECT_EQ(error_of(read_file(folder.at(name))), want);
    EXPECT_EQ(error_of(MappedFile::open(folder.at(name))), want);
  }
  EXPECT_EQ(error_of(MappedFile::open("/dev/null")), "cannot open /dev/null: it is a character device, want a regular file");
  EXPECT_NE(error_of(read_file(folder.at("absent"))).find("No such file"), std::string::npos);
  ::close(s);
}

// What a shell's `<(command)` hands over.
TEST(Files, ReadAPipeBelowDev) {
  EXPECT_EQ(*read_file("/dev/null"), "");
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  ASSERT_EQ(::write(ends[1], "abc", 3), 3);
  ::close(ends[1]);
  EXPECT_EQ(*read_file(cat("/dev/fd/", ends[0])), "abc");
  ::close(ends[0]);
}

}  // namespace
}  // namespace ingot
