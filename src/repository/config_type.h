// The field tables of inference.ModelConfig (Triton 2.73), for text_proto.h.
//
//   Message m = TRY(parse_text_proto(text, path, model_config_type(), &unset));
//
// Thread rule: constants.
#pragma once

#include "repository/text_proto.h"

namespace ingot::repository {

const MessageType& model_config_type();

}  // namespace ingot::repository
