// parse_request_json: JSON from strangers. Bounded depth and bounded members per object (the value keeps members in order, so looking
// one up is linear), no key twice in the outermost object. With `tensors` the elements of {"inputs":[{"data":[...]}]} may be NaN, Infinity
// and -Infinity, which Python's json writes: numbers of that value.
//
//   Json body = TRY(parse_request_json(request.body, 100));
//
// Thread rule: a pure function.
#pragma once

#include "base/json.h"

namespace ingot::frontends {

constexpr int kMostMembers = 2000;
Result<Json> parse_request_json(std::string_view text, int max_depth, bool tensors = false);

}  // namespace ingot::frontends
