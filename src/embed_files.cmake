# embed_files(TARGET FOLDER FILE...): gives the target a source file that holds these files of a folder. Run as a script
# (cmake -DFOLDER=... -DFILES=... -DOUTPUT=... -P) at build time, it writes that source file.
function(embed_files target folder)
  set(output ${CMAKE_CURRENT_BINARY_DIR}/${target}_embedded_files.cc)
  list(TRANSFORM ARGN PREPEND ${folder}/ OUTPUT_VARIABLE paths)
  string(REPLACE ";" "," files "${ARGN}")
  add_custom_command(
    OUTPUT ${output}
    COMMAND ${CMAKE_COMMAND} -DFOLDER=${folder} -DFILES=${files} -DOUTPUT=${output} -P ${CMAKE_CURRENT_FUNCTION_LIST_FILE}
    DEPENDS ${paths} ${CMAKE_CURRENT_FUNCTION_LIST_FILE}
    VERBATIM)
  target_sources(${target} PRIVATE ${output})
endfunction()

if(CMAKE_SCRIPT_MODE_FILE)
  string(REPLACE "," ";" files "${FILES}")
  list(SORT files)
  set(arrays "")
  set(entries "")
  set(index 0)
  foreach(file IN LISTS files)
    file(READ ${FOLDER}/${file} hex HEX)
    string(LENGTH "${hex}" digits)
    math(EXPR size "${digits} / 2")
    string(REGEX REPLACE "(..)" "0x\\1," bytes "${hex}")
    string(APPEND arrays "constexpr unsigned char kBytes${index}[] = {${bytes}0};\n")
    string(APPEND entries "    {\"${file}\", {reinterpret_cast<const char*>(kBytes${index}), ${size}}},\n")
    math(EXPR index "${index} + 1")
  endforeach()
  file(WRITE ${OUTPUT} "// Written by the build.
#include \"server/embedded_files.h\"

namespace nanovllm {
namespace {
${arrays}
const EmbeddedFile kFiles[] = {
${entries}};
}  // namespace

std::span<const EmbeddedFile> embedded_files() { return kFiles; }

const EmbeddedFile* find_embedded_file(std::string_view name) {
  for (const EmbeddedFile& file : kFiles)
    if (file.name == name) return &file;
  return nullptr;
}

}  // namespace nanovllm
")
endif()
