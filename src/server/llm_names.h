// The names of the tensors and parameters by which frontends and the LLM backend talk through ordinary requests and responses.
//
//   request.inputs.push_back(string_tensor(llm::kMessages, {1}, {messages_json}));
//   request.parameters.push_back({llm::kN, int64_t{2}});
//
// A text request carries `text_input` or `messages`, never both. A name listed under "either way" may come as an input tensor (the
// config lists it as an optional input: /infer, gRPC, generate) or as a request parameter (OpenAI and Anthropic routes, which use
// parameters for all of them); a tensor wins. Thread rule: constants.
#pragma once

namespace ingot::server::llm {

// --- Prompt: tensors; where the config of the model does not list one as an input, a string parameter of that name with the same text ---
inline constexpr const char* kTextInput = "text_input";  // BYTES [1]: a raw prompt, no template
inline constexpr const char* kMessages = "messages";     // BYTES [1]: JSON array of OpenAI chat messages, content parts allowed
inline constexpr const char* kTools = "tools";           // BYTES [1]: JSON array of OpenAI tools
inline constexpr const char* kInputIds = "input_ids";    // INT32 [n]: the prompt as token ids (token-level surface, completions)
inline constexpr const char* kTemplateArguments = "chat_template_kwargs";  // BYTES [1]: JSON object for the template

// --- Either way: sampling and limits. Types are those of the tensors in Triton's `ensemble` config ---
inline constexpr const char* kMaxTokens = "max_tokens";                  // INT32; absent: the model's default
inline constexpr const char* kMinTokens = "min_tokens";                  // INT32
inline constexpr const char* kStream = "stream";                        // BOOL: one response per delta; else one in all
inline constexpr const char* kTemperature = "temperature";              // FP32; 0: greedy
inline constexpr const char* kTopK = "top_k";                           // INT32
inline constexpr const char* kTopP = "top_p";                           // FP32
inline constexpr const char* kMinP = "min_p";                           // FP32
inline constexpr const char* kSeed = "seed";                            // UINT64; alias random_seed
inline constexpr const char* kRandomSeed = "random_seed";
inline constexpr const char* kRepetitionPenalty = "repetition_penalty";  // FP32
inline constexpr const char* kPresencePenalty = "presence_penalty";     // FP32
inline constexpr const char* kFrequencyPenalty = "frequency_penalty";   // FP32
inline constexpr const char* kLengthPenalty = "length_penalty";         // FP32, beams
inline constexpr const char* kBeamWidth = "beam_width";                 // INT32
inline constexpr const char* kN = "num_return_sequences";               // INT32
inline constexpr const char* kStopWords = "stop_words";                 // BYTES [k]; as a parameter: a JSON array of strings
inline constexpr const char* kBadWords = "bad_words";                   // BYTES [k]; likewise
inline constexpr const char* kBiasWords = "embedding_bias_words";       // BYTES [k]
inline constexpr const char* kBiasWeights = "embedding_bias_weights";   // FP32 [k]
inline constexpr const char* kLogitBias = "logit_bias";                 // parameter only: JSON object {"token id": bias}
inline constexpr const char* kEndId = "end_id";                         // INT32; -1: never stop there
inline constexpr const char* kPadId = "pad_id";                         // INT32
inline constexpr const char* kIgnoreEos = "ignore_eos";                 // BOOL
inline constexpr const char* kExcludeInput = "exclude_input_in_output";  // BOOL; parameters of the OpenAI routes set it true
inline constexpr const char* kReturnLogProbs = "return_log_probs";      // BOOL: fills cum_log_probs and output_log_probs
inline constexpr const char* kReturnContextLogits = "return_context_logits";        // BOOL
inline constexpr const char* kReturnGenerationLogits = "return_generation_logits";  // BOOL
inline constexpr const char* kReturnPerfMetrics = "return_perf_metrics";            // BOOL
inline constexpr const char* kTopLogProbs = "top_logprobs";             // parameter only, int: adds kLogProbs to the responses
inline constexpr const char* kEcho = "echo";                            // parameter only, bool: prompt text in front of the output
inline constexpr const char* kGuideType = "guided_decoding_guide_type";  // BYTES: json, json_schema, regex, ebnf_grammar
inline constexpr const char* kGuide = "guided_decoding_guide";           // BYTES: the schema, pattern or grammar
inline constexpr const char* kToolChoice = "tool_choice";               // parameter only: auto, none, required, or a function's name
inline constexpr const char* kParallelToolCalls = "parallel_tool_calls";  // parameter only, bool
inline constexpr const char* kReasoningEffort = "reasoning_effort";     // parameter only, string: handed to the template
inline constexpr const char* kEmbed = "embed";                          // parameter only, bool: answer `embedding` instead of text
inline constexpr const char* kCacheSalt = "cache_salt";                 // parameter only, string: separates prefix reuse

// --- Response outputs (tensors) ---
inline constexpr const char* kTextOutput = "text_output";              // BYTES [1]: the delta (stream) or the whole text; whole UTF-8
inline constexpr const char* kCumLogProbs = "cum_log_probs";           // FP32 [1]
inline constexpr const char* kOutputLogProbs = "output_log_probs";     // FP32 [1, n]
inline constexpr const char* kSequenceIndex = "sequence_index";        // INT32 [1]: which of the n; absent: 0
inline constexpr const char* kBatchIndex = "batch_index";              // INT32 [1]; absent: 0
inline constexpr const char* kEmbedding = "embedding";                 // FP32 [E], for kEmbed

// --- Response parameters: only on requests which carry the request parameter kDetails = true (the OpenAI and Anthropic routes), so
// that the responses of the Triton routes hold exactly what Triton's hold ---
inline constexpr const char* kDetails = "ingot_details";               // request parameter, bool
inline constexpr const char* kSequence = "sequence";                   // int: which of the n this response belongs to
inline constexpr const char* kFinishReason = "finish_reason";          // string, on the last response of each sequence: "stop",
                                                                       // "length", "tool_calls", "cancelled"
inline constexpr const char* kStopReason = "stop_reason";              // string: the stop word that matched, if one did
inline constexpr const char* kPromptTokens = "prompt_tokens";          // int, on every response with a finish_reason
inline constexpr const char* kCachedTokens = "cached_tokens";          // int: of the prompt, from the prefix tree
inline constexpr const char* kCompletionTokens = "completion_tokens";  // int: of this sequence so far, on every response
inline constexpr const char* kReasoningTokens = "reasoning_tokens";    // int: of them, inside reasoning
inline constexpr const char* kReasoning = "reasoning_content";         // string: the delta of the reasoning text
inline constexpr const char* kLogProbs = "logprobs";  // string: JSON array, one object per token of this response, as OpenAI's
                                                      // logprobs.content: {token, logprob, bytes, top_logprobs: [{token, logprob, bytes}]}
inline constexpr const char* kToolCalls = "tool_calls";  // string: JSON array of OpenAI tool call deltas {index, id, type,
                                                         // function: {name, arguments}}; text of calls is not in text_output

// --- Model::attribute() names ---
inline constexpr const char* kChatTemplateAttribute = "chat_template";      // Jinja text; "" when the model has none
inline constexpr const char* kContextLengthAttribute = "max_model_length";  // tokens, decimal
inline constexpr const char* kKindAttribute = "kind";                       // "llm" for what the OpenAI routes may serve

}  // namespace ingot::server::llm
