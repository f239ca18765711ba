// The bytes of an empty shared library with the SONAME libtritonserver.so, made by the build (cmake/cabi.cmake).
//
//   write(fd, kSonameLibrary, kSonameLibrarySize);
//
// Thread rule: constants.
#pragma once

#include <cstddef>

namespace ingot::cabi {

extern const unsigned char kSonameLibrary[];
extern const size_t kSonameLibrarySize;

}  // namespace ingot::cabi
