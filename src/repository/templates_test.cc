#include "repository/templates.h"

#include <gtest/gtest.h>

#include "repository/config_file.h"

namespace ingot::repository {
namespace {

TEST(Templates, FillsAsPythonsStringTemplate) {
  EXPECT_EQ(*fill_template("a: ${a} $a ${b} $$TRITON ${max_queue_size} $1 ${x", "a:1", "f"), "a: 1 1 ${b} $TRITON 0 $1 ${x");
  EXPECT_EQ(*fill_template("${path} ${empty}.", R"(path:/a\:b\,c,empty:)", "f"), "/a:b,c .");
  EXPECT_EQ(*fill_template("${max_queue_size}", "max_queue_size:7", "f"), "7");
  EXPECT_EQ(fill_template("${engine_dir}", "engine_dri:/e", "f").error().message(), "f has no placeholder ${engine_dri}, did you mean 'engine_dir'?");
  EXPECT_FALSE(fill_template("${a}", "a", "f").ok());
}

// Every template reads as a config, unfilled and filled with the keys that scripts of several releases pass.
TEST(Templates, AreConfigs) {
  for (TemplateLayout layout : {TemplateLayout::kInflightBatcher, TemplateLayout::kGpt})
    for (const TemplateFile& f : template_files(layout)) {
      auto p = parse_config_text(f.text, f.path);
      ASSERT_TRUE(p.ok()) << p.error().message();
      EXPECT_TRUE(p->was_unset("max_batch_size")) << f.path;
      EXPECT_EQ(p->config.name + "/config.pbtxt", f.path);
    }
}

TEST(Templates, TakeTheKeysOfOldScripts) {
  const std::pair<const char*, const char*> kLines[] = {
      {"preprocessing/config.pbtxt", "tokenizer_dir:/m,tokenizer_type:auto,triton_max_batch_size:64,preprocessing_instance_count:1"},
      {"postprocessing/config.pbtxt", "tokenizer_dir:/m,triton_max_batch_size:8,postprocessing_instance_count:1"},
      {"tensorrt_llm_bls/config.pbtxt", "triton_max_batch_size:8,decoupled_mode:True,bls_instance_count:1,accumulate_tokens:False"},
      {"ensemble/config.pbtxt", "triton_max_batch_size:8"},
      {"tensorrt_llm/config.pbtxt",
       "triton_max_batch_size:8,decoupled_mode:True,max_beam_width:1,engine_dir:/e,max_tokens_in_paged_kv_cache:2560,max_attention_window_size:2560,"
       "kv_cache_free_gpu_mem_fraction:0.5,exclude_input_in_output:True,enable_kv_cache_reuse:False,batching_strategy:inflight_batching,"
       "max_queue_delay_microseconds:600"},
      {"tensorrt_llm/config.pbtxt",
       "triton_max_batch_size:128,decoupled_mode:true,max_queue_delay_microseconds:100,max_beam_width:1,batching_strategy:inflight_fused_batching,"
       "engine_dir:/e,max_tokens_in_paged_kv_cache:,max_kv_cache_length:,batch_scheduler_policy:guaranteed_completion,kv_cache_free_gpu_mem_fraction:0.2,"
       "max_num_sequences:4,enable_trt_overlap:true,exclude_input_in_output:"}};
  for (const auto& [path, line] : kLines)
    for (const TemplateFile& f : template_files(TemplateLayout::kInflightBatcher)) {
      if (f.path != path) continue;
      auto filled = fill_template(f.text, line, f.path);
      ASSERT_TRUE(filled.ok()) << filled.error().message();
      auto p = parse_config_text(*filled, f.path);
      ASSERT_TRUE(p.ok()) << p.error().message();
      EXPECT_FALSE(p->was_unset("max_batch_size"));
    }
}

}  // namespace
}  // namespace ingot::repository
