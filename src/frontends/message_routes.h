// The two message protocols beside chat completions: OpenAI's /v1/responses and Anthropic's /v1/messages.
//
//   run_text(api, exchange, std::move(request), messages_format(request));   // what parse_anthropic() made of the body
//
// Both turn their items into chat messages for the backend and its events into their own. Thread rule: as every TextFormat.
#pragma once

#include "frontends/text_stream.h"

namespace ingot::frontends {

std::unique_ptr<TextFormat> responses_format(const TextRequest& request);
std::unique_ptr<TextFormat> messages_format(const TextRequest& request);

}  // namespace ingot::frontends
