#include "base/options.h"

#include <gtest/gtest.h>

namespace ingot {
namespace {

struct Sample {
  bool stream = false;
  int beams = 1;
  double top_p = 0.5;
  std::string name = "x";
  std::vector<std::string> texts;
  std::optional<int> end_id;
  template <class Self, class V>
  static void fields(Self& o, V&& v) {
    v("stream", o.stream, "Print text while it is made.");
    v("num-beams", o.beams, "Beams.", 1, 4);
    v("top-p", o.top_p, "Nucleus.", 0, 1);
    v("name", o.name, "Name.");
    v("input-text", o.texts, "Prompts.");
    v("end-id", o.end_id, "Stop id.");
  }
};

std::vector<std::string> args(std::initializer_list<const char*> list) { return {list.begin(), list.end()}; }

TEST(Options, ReadsBothSpellingsAndForms) {
  Sample o;
  OptionTable t("test");
  t.add(o);
  auto rest = t.parse(args({"--num_beams", "3", "a", "--top-p=0.25", "--stream", "--input_text", "one", "two", "--end_id", "-1", "--name", "n"}));
  ASSERT_TRUE(rest.ok()) << rest.error().message();
  EXPECT_EQ(*rest, std::vector<std::string>{"a"});
  EXPECT_EQ(o.beams, 3);
  EXPECT_EQ(o.top_p, 0.25);
  EXPECT_TRUE(o.stream);
  EXPECT_EQ(o.texts, (std::vector<std::string>{"one", "two"}));
  EXPECT_EQ(o.end_id, -1);
  EXPECT_TRUE(t.was_set("num_beams"));
}

TEST(Options, BooleansTakeWordsAndNegation) {
  Sample o;
  OptionTable t("test");
  t.add(o);
  ASSERT_TRUE(t.parse(args({"--stream", "enable"})).ok());
  EXPECT_TRUE(o.stream);
  ASSERT_TRUE(t.parse(args({"--stream=False"})).ok());
  EXPECT_FALSE(o.stream);
  ASSERT_TRUE(t.parse(args({"--stream", "--no-stream"})).ok());
  EXPECT_FALSE(o.stream);
}

TEST(Options, ErrorsNameFlagFoundAndWanted) {
  Sample o;
  OptionTable t("test");
  t.add(o);
  t.refuse("lora_dir", "LoRA is not built yet");
  auto message = [&](std::initializer_list<const char*> a) { return t.parse(args(a)).error().message(); };
  EXPECT_EQ(message({"--num-beams", "9"}), "--num-beams is 9, allowed is 1 .. 4");
  EXPECT_EQ(message({"--num-beams", "two"}), "--num-beams is 'two', want an integer");
  EXPECT_EQ(message({"--num-beam", "2"}), "unknown flag --num-beam; did you mean --num-beams? (test --help lists all)");
  EXPECT_EQ(message({"--name"}), "--name needs a value (TEXT)");
  EXPECT_EQ(message({"--lora_dir", "x"}), "--lora_dir: LoRA is not built yet");
}

TEST(Options, OldFlagsWithoutEffectSwallowTheirValues) {
  Sample o;
  OptionTable t("test");
  t.add(o);
  const char* old[] = {"gemm_plugin"};
  t.accept_without_effect(old);
  auto rest = t.parse(args({"--gemm_plugin", "float16", "--num-beams=2"}));
  ASSERT_TRUE(rest.ok());
  EXPECT_TRUE(rest->empty());
  EXPECT_EQ(t.without_effect(), std::vector<std::string>{"gemm_plugin"});
}

TEST(Options, FileKeysAndEnvironment) {
  Sample o;
  OptionTable t("test");
  t.add(o);
  ASSERT_TRUE(t.read_json(*parse_json(R"({"num_beams": 2, "input_text": ["a", "b"], "stream": true})", "f"), "f").ok());
  EXPECT_EQ(o.beams, 2);
  EXPECT_EQ(o.texts.size(), 2u);
  EXPECT_EQ(t.read_json(*parse_json(R"({"num_beams": 7})", "f"), "f.json").error().message(), "f.json: num-beams is 7, allowed is 1 .. 4");
}

}  // namespace
}  // namespace ingot
