#include "bench/dataset.h"

#include <gtest/gtest.h>

#include "base/files.h"

namespace ingot::bench {
namespace {

std::string file_with(const char* name, const std::string& text) {
  const std::string path = cat(testing::TempDir(), "/", name);
  EXPECT_TRUE(write_file(path, text).ok());
  return path;
}

TEST(Dataset, ReadsBothForms) {
  const auto old = read_dataset(file_with("old.json", R"([{"input_ids": [1, 2, 3], "output_len": 4}])"));
  ASSERT_TRUE(old.ok()) << old.error().message();
  EXPECT_EQ((*old)[0].input_ids, (std::vector<int32_t>{1, 2, 3}));
  EXPECT_EQ((*old)[0].task_id, -1);
  const auto samples = random_samples(3, {.a = 5, .b = 0}, {.kind = Lengths::Kind::kUniform, .a = 2, .b = 4}, 100, 1);
  ASSERT_TRUE(samples.ok());
  const auto back = read_dataset(file_with("new.json", dataset_text(*samples, {{"workload_type", "x"}})));
  ASSERT_TRUE(back.ok()) << back.error().message();
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ((*back)[i].input_ids, (*samples)[i].input_ids);
    EXPECT_EQ((*back)[i].output_len, (*samples)[i].output_len);
    EXPECT_EQ((*back)[i].input_ids.size(), 5u);
    EXPECT_GE((*back)[i].output_len, 2);
    EXPECT_LE((*back)[i].output_len, 4);
  }
}

TEST(Dataset, NormalLengthsHaveTheirMean) {
  const auto samples = random_samples(400, {.a = 60, .b = 10}, {.a = 1, .b = 0}, 10, 7);
  ASSERT_TRUE(samples.ok());
  double sum = 0, squares = 0;
  for (const Sample& s : *samples) sum += static_cast<double>(s.input_ids.size());
  const double mean = sum / 400;
  for (const Sample& s : *samples) squares += (static_cast<double>(s.input_ids.size()) - mean) * (static_cast<double>(s.input_ids.size()) - mean);
  EXPECT_NEAR(mean, 60, 2);
  EXPECT_NEAR(squares / 400, 100, 30);
}

TEST(Dataset, SaysWhatIsWrong) {
  EXPECT_NE(read_dataset(file_with("a.json", "{}")).error().message().find("has no 'samples'"), std::string::npos);
  EXPECT_NE(read_dataset(file_with("b.json", R"([{"input_ids": [1]}])")).error().message().find("sample 0"), std::string::npos);
  EXPECT_NE(read_dataset(file_with("c.json", R"([{"input_ids": [1], "output_len": 0}])")).error().message().find("output_len is 0"), std::string::npos);
  EXPECT_FALSE(random_samples(1, {.a = -1}, {.a = 1}, 10, 1).ok());
  EXPECT_FALSE(random_samples(1, {.kind = Lengths::Kind::kUniform, .a = 5, .b = 4}, {.a = 1}, 10, 1).ok());
}

TEST(Texts, TakesArticlesFromLinesAndArrays) {
  const auto lines = read_texts(file_with("t.jsonl", "{\"article\": \"a\", \"highlights\": \"b\"}\n\n{\"document\": \"c\", \"summary\": \"d\"}\n"));
  ASSERT_TRUE(lines.ok()) << lines.error().message();
  EXPECT_EQ(lines->size(), 2u);
  EXPECT_EQ((*lines)[1].reference, "d");
  const auto rows = read_texts(file_with("t.json", R"({"test": [{"q": "x", "a": "y"}]})"), "q", "a");
  ASSERT_TRUE(rows.ok()) << rows.error().message();
  EXPECT_EQ((*rows)[0].text, "x");
  EXPECT_NE(read_texts(file_with("u.jsonl", "{\"x\": 1}\n")).error().message().find("line 1 has no text"), std::string::npos);
}

}  // namespace
}  // namespace ingot::bench
