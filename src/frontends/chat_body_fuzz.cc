// A JSON body -> each of the text protocols -> InferRequests for two kinds of models.
#include <cstdint>

#include "frontends/request_json.h"
#include "frontends/text_request.h"
#include "server/server.h"

using namespace ingot;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  Result<Json> body = frontends::parse_request_json({reinterpret_cast<const char*>(data) + 1, size - 1}, 100);
  if (!body.ok()) return 0;
  frontends::TextResult<frontends::TextRequest> parsed;
  switch (data[0] % 5) {
    case 0: parsed = frontends::parse_chat(*body); break;
    case 1: parsed = frontends::parse_completion(*body); break;
    case 2: parsed = frontends::parse_embedding(*body); break;
    case 3: parsed = frontends::parse_responses(*body); break;
    default: parsed = frontends::parse_anthropic(*body);
  }
  if (auto* e = std::get_if<frontends::TextError>(&parsed)) {
    CHECK(e->status >= 400 && !e->message.empty());
    return 0;
  }
  const frontends::TextRequest& text = std::get<frontends::TextRequest>(parsed);
  CHECK(!text.prompts.empty());
  server::ModelConfig plain, full;
  plain.max_batch_size = 4;
  for (const char* name : {"text_input", "messages", "tools", "max_tokens"}) {
    server::ModelInput i;
    i.name = name;
    i.data_type = name[0] == 'm' && name[1] == 'a' ? server::DataType::kInt32 : server::DataType::kBytes;
    i.dims = {1};
    plain.input.push_back(i);
    i.optional = true;
    full.input.push_back(i);
  }
  plain.input.erase(plain.input.begin() + 1, plain.input.begin() + 3);
  for (size_t i = 0; i < std::min<size_t>(text.prompts.size(), 4); ++i)
    for (const server::ModelConfig* c : {&plain, &full}) {
      Result<server::InferRequest> r = frontends::make_request(text, i, *c);
      if (!r.ok()) continue;
      Status s = server::validate_request(*c, r.value());
      CHECK(s.ok(), s.error().message());  // what the protocols make is always valid
    }
  return 0;
}
