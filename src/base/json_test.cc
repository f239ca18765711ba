#include "base/json.h"

#include <gtest/gtest.h>

namespace ingot {
namespace {

TEST(Json, SyntaxErrorsGivePlaceAndSource) {
  auto r = parse_json("{\"a\": 1,\n \"b\": }", "config.json");
  ASSERT_FALSE(r.ok());
  EXPECT_EQ(r.error().message().substr(0, 45), "config.json: not JSON at line 2, column 7: sy") << r.error().message();
}

TEST(Json, DeepNestingIsRefused) {
  const std::string deep(200, '[');
  EXPECT_EQ(parse_json(deep, "body").error().message(), "body: JSON is nested 200 deep, at most 128 is allowed");
  EXPECT_TRUE(parse_json("\"[[[[\"", "body", 2).ok());  // brackets in a string do not count
}

TEST(Json, TypedReadsNameKeyFoundAndWanted) {
  Json j = *parse_json(R"({"n": 3, "f": 2.5, "s": "x", "whole": 64.0, "list": [1, 2], "null": null, "big": 5000000000})", "c");
  EXPECT_EQ(*get<int>(j, "n", "c"), 3);
  EXPECT_EQ(*get<double>(j, "n", "c"), 3.0);
  EXPECT_EQ(*get<int>(j, "whole", "c"), 64);
  EXPECT_EQ(*get<std::vector<int64_t>>(j, "list", "c"), (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(*get_or<int>(j, "null", 7, "c"), 7);
  EXPECT_EQ(*get_or<int>(j, "absent", 8, "c"), 8);
  EXPECT_EQ(get<int>(j, "absent", "c").error().message(), "c has no key 'absent', want an integer");
  EXPECT_EQ(get<int>(j, "f", "c").error().message(), "c: key 'f' is 2.5 (number), want an integer");
  EXPECT_EQ(get<int>(j, "big", "c").error().message(), "c: key 'big' is 5000000000 (integer), want an integer of smaller size");
  EXPECT_EQ(get<std::string>(j, "n", "c").error().message(), "c: key 'n' is 3 (integer), want a string");
}

}  // namespace
}  // namespace ingot
