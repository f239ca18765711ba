#include "backends/llm_tools.h"

namespace ingot::backends {

Result<text::GrammarSpec> tool_call_grammar(const Json& tools, const std::string& choice, text::ToolFormat format) {
  using text::ToolFormat;
  if (format == ToolFormat::kNone || format == ToolFormat::kMistral)
    return Error(Code::kUnsupported, cat("tool_choice '", choice, "' needs a model whose chat template writes calls as JSON text"));
  const char* arguments = format == ToolFormat::kLlama3 ? "parameters" : "arguments";
  Json calls = Json::array();
  for (const Json& tool : tools) {
    const Json& function = tool["function"];
    if (choice != "required" && function["name"] != choice) continue;
    auto schema = function.find("parameters");
    Json call = {{"type", "object"}, {"additionalProperties", false}};
    call["properties"]["name"] = {{"const", function["name"]}};
    call["properties"][arguments] = schema != function.end() && schema->is_object() && !schema->empty() ? *schema : Json{{"type", "object"}};
    call["required"] = {"name", arguments};
    calls.push_back(std::move(call));
  }
  if (calls.empty())
    return Error(Code::kInvalidArgument, choice == "required" ? "tool_choice is 'required', but the request has no tools"
                                                              : cat("tool_choice names the function '", choice, "', which is none of the request's tools"));
  const std::string json = dump_json(calls.size() == 1 ? calls[0] : Json{{"anyOf", calls}});
  text::GrammarSpec spec;
  if (format != ToolFormat::kHermes) {
    spec.source = json;
    return spec;
  }
  spec.kind = text::GrammarKind::kLark;
  spec.source = cat("start: \"<tool_call>\\n\" call \"\\n</tool_call>\"\ncall: %json ", json, "\n");
  return spec;
}

}  // namespace ingot::backends
