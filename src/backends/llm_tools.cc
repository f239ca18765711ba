#include "backends/llm_tools.h"

namespace ingot::backends {
namespace {

// Turns the references of a schema, which count from its own root, into ones that count from the document in which it lies at `place`.
void move_references(Json& schema, const std::string& place) {
  if (schema.is_array())
    for (Json& one : schema) move_references(one, place);
  if (!schema.is_object()) return;
  for (auto& [key, value] : schema.items()) {
    if (key == "$ref" && value.is_string()) {
      const std::string to = value.get<std::string>();
      if (to == "#" || to.starts_with("#/")) value = cat(place, to.substr(1));
    } else if (key == "properties" || key == "patternProperties" || key == "dependentSchemas" || key == "$defs" || key == "definitions") {
      if (value.is_object())
        for (auto& [name, one] : value.items()) move_references(one, place);  // whatever the name: "enum" is a fine one for a property
    } else if (key != "const" && key != "enum" && key != "default" && key != "examples") {
      move_references(value, place);
    }
  }
}

}  // namespace

Result<text::GrammarSpec> tool_call_grammar(const Json& tools, const std::string& choice, text::ToolFormat format) {
  using text::ToolFormat;
  if (format == ToolFormat::kNone || format == ToolFormat::kMistral)
    return Error(Code::kUnsupported, cat("tool_choice '", choice, "' needs a model whose chat template writes calls as JSON text"));
  const char* arguments = format == ToolFormat::kLlama3 ? "parameters" : "arguments";
  if (!tools.is_array()) return Error(Code::kInvalidArgument, cat("tools: found ", tools.type_name(), ", want an array of functions"));
  std::vector<const Json*> chosen;
  for (size_t i = 0; i < tools.size(); ++i) {
    const auto function = tools[i].is_object() ? tools[i].find("function") : tools[i].end();
    if (function == tools[i].end() || !function->is_object()) return Error(Code::kInvalidArgument, cat("tools[", i, "] has no object 'function'"));
    const auto name = function->find("name");
    if (name == function->end() || !name->is_string()) return Error(Code::kInvalidArgument, cat("tools[", i, "].function has no string 'name'"));
    if (choice == "required" || *name == choice) chosen.push_back(&*function);
  }
  Json calls = Json::array();
  for (const Json* function : chosen) {
    const auto parameters = function->find("parameters");
    Json schema = parameters != function->end() && parameters->is_object() && !parameters->empty() ? *parameters : Json{{"type", "object"}};
    schema.erase("$id");  // it would be another root
    move_references(schema, cat("#", chosen.size() == 1 ? "" : cat("/anyOf/", calls.size()), "/properties/", arguments));
    Json call = {{"type", "object"}, {"additionalProperties", false}};
    call["properties"]["name"] = {{"const", function->at("name")}};
    call["properties"][arguments] = std::move(schema);
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
