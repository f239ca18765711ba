# Writes a C++ file that holds the Python side of the python backend: cmake -DFILES="a.py;b.py" -DOUT=... -P embed_python.cmake
set(table "")
set(data "")
set(n 0)
foreach(file ${FILES})
  get_filename_component(name ${file} NAME)
  file(READ ${file} hex HEX)
  string(LENGTH "${hex}" digits)
  math(EXPR size "${digits} / 2")
  string(REGEX REPLACE "(..)" "0x\\1," bytes "${hex}")
  string(APPEND data "const unsigned char kData${n}[] = {${bytes}0};\n")
  string(APPEND table "    {\"${name}\", {reinterpret_cast<const char*>(kData${n}), ${size}}},\n")
  math(EXPR n "${n} + 1")
endforeach()
file(WRITE ${OUT} "// generated from src/python_backend
#include \"python_backend/internal/process.h\"
namespace ingot::python_backend {
namespace {
${data}}  // namespace
extern const EmbeddedFile kEmbeddedFiles[] = {
${table}};
extern const size_t kEmbeddedFileCount = ${n};
}  // namespace ingot::python_backend
")
