#include "repository/config_file.h"

#include <gtest/gtest.h>

namespace ingot::repository {
namespace {

server::ModelConfig parse(std::string_view text) {
  auto p = parse_config_text(text, "m/config.pbtxt");
  EXPECT_TRUE(p.ok()) << (p.ok() ? "" : p.error().message());
  return p.ok() ? p->config : server::ModelConfig();
}

std::string error(std::string_view text) {
  auto p = parse_config_text(text, "m/config.pbtxt");
  return p.ok() ? "" : p.error().message();
}

TEST(ConfigFile, ReadsEveryWayToWriteAField) {
  const server::ModelConfig c = parse(R"(
    # a comment
    name: "m" ; backend: 'ing' "ot",
    max_batch_size: 0x10
    input [ { name: "a" data_type: TYPE_STRING dims: [ 1 ] }, { name: "b", data_type: 8, dims: -1, dims: [2, 3] optional: True } ]
    input: < name: "c" data_type: TYPE_FP32 dims: [ ] reshape: { shape: [ ] } >
    output { name: "y" data_type: TYPE_FP32 dims: [ -1 ] }
    output [ { name: "y" data_type: TYPE_FP32 dims: [ -1 ] } ]
    parameters: { key: "k" value: { string_value: "a\n\x41\101\u00e9" } }
    parameters { key: "left" value: { string_value: "${left}" } }
    model_transaction_policy { decoupled: t }
    instance_group [ { count: 2 kind: KIND_CPU } ]
  )");
  EXPECT_EQ(c.name, "m");
  EXPECT_EQ(c.backend, "ingot");
  EXPECT_EQ(c.max_batch_size, 16);
  ASSERT_EQ(c.input.size(), 3u);
  EXPECT_EQ(c.input[0].data_type, server::DataType::kBytes);
  EXPECT_EQ(c.input[1].data_type, server::DataType::kInt32);
  EXPECT_EQ(c.input[1].dims, (std::vector<int64_t>{-1, 2, 3}));
  EXPECT_TRUE(c.input[1].optional);
  ASSERT_TRUE(c.input[2].reshape);
  EXPECT_TRUE(c.input[2].reshape->shape.empty());
  EXPECT_EQ(c.output.size(), 1u);  // listed twice: once is enough
  EXPECT_EQ(c.parameters, (server::StringMap{{"k", "a\nAA\xC3\xA9"}}));
  EXPECT_TRUE(c.is_decoupled());
  EXPECT_EQ(c.instance_group[0].kind, server::InstanceGroup::Kind::kCpu);
}

TEST(ConfigFile, PlaceholdersCountAsNotSet) {
  auto p = parse_config_text("max_batch_size: ${triton_max_batch_size}\ninput { name: \"x\" data_type: ${type} dims: [ 1 ] }\n", "m/config.pbtxt");
  ASSERT_TRUE(p.ok()) << p.error().message();
  EXPECT_EQ(p->config.max_batch_size, 0);
  EXPECT_TRUE(p->was_unset("max_batch_size"));
  EXPECT_TRUE(p->was_unset("input[0].data_type"));
  EXPECT_EQ(p->unset[1].placeholder, "${type}");
  EXPECT_EQ(p->unset[1].line, 2);
  EXPECT_EQ(p->config.input[0].data_type, server::DataType::kInvalid);
}

TEST(ConfigFile, ErrorsNamePlaceFoundAndWanted) {
  EXPECT_EQ(error("max_batch_siez: 4"),
            "m/config.pbtxt:1:1: found the field 'max_batch_siez', which ModelConfig does not have; did you mean 'max_batch_size'?");
  EXPECT_EQ(error("max_batch_size: many"), "m/config.pbtxt:1:17: found 'many', want a 32-bit integer for 'max_batch_size'");
  EXPECT_EQ(error("max_batch_size: 3000000000"), "m/config.pbtxt:1:17: found '3000000000', want a 32-bit integer for 'max_batch_size'");
  EXPECT_EQ(error("name \"m\""), "m/config.pbtxt:1:6: found the string \"m\", want ':' after 'name'");
  EXPECT_EQ(error("name: \"m\"\nname: \"n\""), "m/config.pbtxt:2:1: found 'name' a second time in one ModelConfig, want it once");
  EXPECT_EQ(error("input {\n name: \"x\""), "m/config.pbtxt:2:11: found the end of the file, want a field of ModelInput or '}' that closes line 1");
  EXPECT_EQ(error("dynamic_batching {} sequence_batching {}"),
            "m/config.pbtxt:1:21: found 'sequence_batching' beside 'dynamic_batching', want only one of them in ModelConfig");
  EXPECT_EQ(error("name: \"a\nb\""), "m/config.pbtxt:1:7: found a string without its closing \" on the same line");
  EXPECT_EQ(error("input [ {} {} ]"), "m/config.pbtxt:1:12: found '{', want ',' or ']' in the list of 'input'");
  EXPECT_NE(error("instance_group { kind: KIND_TPU }").find("want an enum value for 'kind' (KIND_AUTO, KIND_GPU, KIND_CPU, KIND_MODEL)"), std::string::npos);
  EXPECT_NE(error("max_batch_size: -1").find("'max_batch_size' must be non-negative value for"), std::string::npos);
}

TEST(ConfigFile, JsonSaysTheSameAsText) {
  const server::ModelConfig c = parse(R"(
    name: "m" platform: "ensemble" max_batch_size: 4 version_policy { specific { versions: [ 1, 3 ] } }
    input { name: "a" data_type: TYPE_STRING dims: [ 1 ] format: FORMAT_NHWC }
    output { name: "b" data_type: TYPE_FP32 dims: [ -1 ] label_filename: "l" }
    ensemble_scheduling { step { model_name: "s" model_version: -1 input_map { key: "x" value: "a" } output_map { key: "y" value: "b" } } }
    parameters { key: "k" value { string_value: "v" } }
    model_warmup { name: "w" batch_size: 1 inputs { key: "a" value { data_type: TYPE_STRING dims: 1 zero_data: true } } }
    optimization { cuda { graphs: true graph_spec { batch_size: 2 input { key: "a" value { dim: [ 1, 2 ] } } } } }
    response_cache { enable: true }
  )");
  auto again = parse_config_json(server::to_json(c), "config");
  ASSERT_TRUE(again.ok()) << again.error().message();
  EXPECT_EQ(server::to_json(again->config), server::to_json(c));
  EXPECT_NE(server::to_json(c).find("\"string_value\":\"v\""), std::string::npos);
}

TEST(ConfigFile, JsonErrorsNameThePath) {
  auto p = parse_config_json(R"({"input":[{"name":"x","dims":["a"]}]})", "config");
  ASSERT_FALSE(p.ok());
  EXPECT_EQ(p.error().message(), "config at input[0].dims[0]: found \"a\", want a 64-bit integer");
  p = parse_config_json(R"({"maxBatchSize":"8"})", "config");
  ASSERT_TRUE(p.ok());
  EXPECT_EQ(p->config.max_batch_size, 8);
}

}  // namespace
}  // namespace ingot::repository
