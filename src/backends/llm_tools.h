// A grammar for answers that must call a tool (tool_choice "required", or the name of one).
//
//   text::GrammarSpec spec = TRY(tool_call_grammar(tools, "required", text::ToolFormat::kHermes));   // `tools`: OpenAI's array
//   request.grammar = TRY(text::GrammarMask::create(tokenizer, spec));
//
// Thread rule: pure function.
#pragma once

#include "base/json.h"
#include "text/grammar.h"
#include "text/tool_calls.h"

namespace ingot::backends {

// Exactly one call, of any tool or of the one that `choice` names, in the form that the model's template asks for.
Result<text::GrammarSpec> tool_call_grammar(const Json& tools, const std::string& choice, text::ToolFormat format);

}  // namespace ingot::backends
