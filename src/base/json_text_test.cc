#include "base/json_text.h"

#include <gtest/gtest.h>

namespace ingot {
namespace {

std::string quoted(std::string_view s) {
  std::string out;
  append_json_string(out, s);
  return out;
}

TEST(JsonText, NestsAndSeparates) {
  JsonText j;
  j.object().key("a").array().integer(1).number(0.5).boolean(true).null().array().end().end().key("b").object().end().end();
  EXPECT_EQ(j.text, R"({"a":[1,0.5,true,null,[]],"b":{}})");
}

TEST(JsonText, EscapesControlsAndReplacesBrokenUtf8) {
  EXPECT_EQ(quoted("a\"b\\c\n\x01"), R"("a\"b\\c\n\u0001")");
  EXPECT_EQ(quoted("\xC3\xA9\xF0\x9F\x98\x80"), "\"\xC3\xA9\xF0\x9F\x98\x80\"");
  const std::string bad = "\xEF\xBF\xBD";
  EXPECT_EQ(quoted("x\xC3"), "\"x" + bad + "\"");                        // cut sequence
  EXPECT_EQ(quoted("\xC0\xAF"), "\"" + bad + bad + "\"");                // overlong
  EXPECT_EQ(quoted("\xED\xA0\x80"), "\"" + bad + bad + bad + "\"");      // surrogate
  EXPECT_EQ(quoted("\xF4\x90\x80\x80"), "\"" + bad + bad + bad + bad + "\"");
}

TEST(JsonText, NonFiniteNumbersAreNull) {
  JsonText j;
  j.array().number(INFINITY).number(NAN).number(1e300).end();
  EXPECT_EQ(j.text, "[null,null,1e+300]");
}

}  // namespace
}  // namespace ingot
