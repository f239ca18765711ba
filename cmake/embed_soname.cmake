# Writes the bytes of a library as a C++ constant: cmake -DFILE=... -DOUT=... -P embed_soname.cmake
file(READ ${FILE} hex HEX)
string(REGEX REPLACE "(..)" "0x\\1," bytes "${hex}")
file(WRITE ${OUT} "// generated from libtritonserver.so
#include \"cabi/internal/soname.h\"
namespace ingot::cabi {
extern const unsigned char kSonameLibrary[] = {${bytes}};
extern const size_t kSonameLibrarySize = sizeof kSonameLibrary;
}  // namespace ingot::cabi
")
