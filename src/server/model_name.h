// How the registry spells models: exact names with their namespace, own names without, and what it says of states.
//
//   exact("", "m") == "m"; exact("/models", "m") == "/models/m"; own_name("/models/m") == "m"
//
// Thread rule: pure functions.
#pragma once

#include <string>

#include "base/result.h"

namespace ingot::server {

constexpr const char* kUnloaded = "unloaded";  // the reason of what was there and is wanted no more

inline std::string exact(const std::string& name_space, const std::string& name) { return name_space.empty() ? name : cat(name_space, "/", name); }
// A model's own name has no '/'.
inline std::string own_name(const std::string& exact_name) { return exact_name.substr(exact_name.rfind('/') + 1); }
// "Invalid argument: the text", as in the start-up table and the index.
inline std::string reason_of(const Error& e) { return cat(code_name(e.code()), ": ", e.message()); }

}  // namespace ingot::server
