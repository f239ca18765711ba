# Writes a C++ file that holds every file of a folder: cmake -DWEB=... -DOUT=... -P embed_web.cmake
file(GLOB files ${WEB}/*)
list(SORT files)
set(table "")
set(data "")
set(n 0)
foreach(file ${files})
  get_filename_component(name ${file} NAME)
  get_filename_component(ext ${file} LAST_EXT)
  if(ext STREQUAL ".html")
    set(type "text/html; charset=utf-8")
  elseif(ext STREQUAL ".js")
    set(type "text/javascript; charset=utf-8")
  elseif(ext STREQUAL ".css")
    set(type "text/css; charset=utf-8")
  elseif(ext STREQUAL ".svg")
    set(type "image/svg+xml")
  else()
    continue()
  endif()
  file(READ ${file} hex HEX)
  string(LENGTH "${hex}" digits)
  math(EXPR size "${digits} / 2")
  string(REGEX REPLACE "(..)" "0x\\1," bytes "${hex}")
  string(APPEND data "const unsigned char kData${n}[] = {${bytes}0};\n")
  string(APPEND table "    {\"/${name}\", \"${type}\", {reinterpret_cast<const char*>(kData${n}), ${size}}},\n")
  math(EXPR n "${n} + 1")
endforeach()
file(WRITE ${OUT} "// generated from web/
#include \"frontends/web_page.h\"
namespace ingot::frontends {
namespace {
${data}}  // namespace
extern const WebFile kWebFiles[] = {
${table}};
extern const size_t kWebFileCount = ${n};
}  // namespace ingot::frontends
")
