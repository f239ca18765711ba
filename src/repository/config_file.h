// config.pbtxt and its JSON twin as a server::ModelConfig.
//
//   ParsedConfig c = TRY(parse_config_text(text, "repo/ensemble/config.pbtxt"));
//   for (const Unset& u : c.unset) ...                        // fields left at ${placeholders}
//
// Thread rule: pure functions.
#pragma once

#include <string>
#include <vector>

#include "repository/text_proto.h"
#include "server/model_config.h"

namespace ingot::repository {

struct ParsedConfig {
  server::ModelConfig config;
  std::vector<Unset> unset;
  bool was_unset(std::string_view path) const;
};

Result<ParsedConfig> parse_config_text(std::string_view text, std::string_view file);
Result<ParsedConfig> parse_config_json(std::string_view json, std::string_view what);

}  // namespace ingot::repository
