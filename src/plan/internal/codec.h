// The "plan" section: a Plan as JSON and back. The reader checks types and names; validate() checks the sense.
#pragma once

#include <string>
#include <string_view>

#include "plan/plan.h"

namespace ingot::plan::internal {

std::string encode(const Plan& plan);
Result<Plan> decode(std::string_view text, std::string_view what);

}  // namespace ingot::plan::internal
