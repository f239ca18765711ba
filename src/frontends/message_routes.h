// The two message protocols beside chat completions: OpenAI's /v1/responses and Anthropic's /v1/messages.
//
//   handle_responses(api, exchange, body);   handle_messages(api, exchange, body);
//
// Both turn their items into chat messages for the backend and its events into their own. Thread rule: as handlers (frontends/api.h).
#pragma once

#include "frontends/api.h"

namespace ingot::frontends {

void handle_responses(ApiContext& api, ExchangePtr exchange, const Json& body);
void handle_messages(ApiContext& api, ExchangePtr exchange, const Json& body);

}  // namespace ingot::frontends
