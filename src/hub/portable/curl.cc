// libcurl's functions for the portable program (NANO_VLLM_PORTABLE), which is not linked with it:
// each finds its namesake in the machine's libcurl when it is first called. Only `pull` calls any.
#include <curl/curl.h>
#include <dlfcn.h>

#include <cstdarg>
#include <string>

#include "nanovllm/error.h"

#undef curl_easy_setopt
#undef curl_easy_getinfo

namespace {

void* library() {
  static void* const handle = ::dlopen("libcurl.so.4", RTLD_NOW | RTLD_LOCAL);
  if (!handle)
    throw nanovllm::Error("libcurl", "is needed to fetch models, and is not on this machine (" +
                                         std::string(::dlerror()) + ")");
  return handle;
}

template <typename Function>
Function* find(Function*, const char* name) {
  if (void* symbol = ::dlsym(library(), name)) return reinterpret_cast<Function*>(symbol);
  throw nanovllm::Error("libcurl", std::string("has no ") + name);
}

#define NANO_VLLM_FIND(function) find(&(function), #function)

}  // namespace

// The two that take one argument of any type: a long, a pointer or a curl_off_t, all of which are
// passed as one word.
static_assert(sizeof(long) == sizeof(void*) && sizeof(curl_off_t) == sizeof(void*));

extern "C" {

CURLcode curl_easy_setopt(CURL* easy, CURLoption option, ...) {
  va_list arguments;
  va_start(arguments, option);
  void* const value = va_arg(arguments, void*);
  va_end(arguments);
  return NANO_VLLM_FIND(curl_easy_setopt)(easy, option, value);
}
CURLcode curl_easy_getinfo(CURL* easy, CURLINFO info, ...) {
  va_list arguments;
  va_start(arguments, info);
  void* const value = va_arg(arguments, void*);
  va_end(arguments);
  return NANO_VLLM_FIND(curl_easy_getinfo)(easy, info, value);
}
CURLcode curl_global_init(long flags) { return NANO_VLLM_FIND(curl_global_init)(flags); }
CURL* curl_easy_init() { return NANO_VLLM_FIND(curl_easy_init)(); }
void curl_easy_reset(CURL* easy) { NANO_VLLM_FIND(curl_easy_reset)(easy); }
void curl_easy_cleanup(CURL* easy) { NANO_VLLM_FIND(curl_easy_cleanup)(easy); }
CURLcode curl_easy_perform(CURL* easy) { return NANO_VLLM_FIND(curl_easy_perform)(easy); }
const char* curl_easy_strerror(CURLcode code) { return NANO_VLLM_FIND(curl_easy_strerror)(code); }
curl_slist* curl_slist_append(curl_slist* list, const char* text) {
  return NANO_VLLM_FIND(curl_slist_append)(list, text);
}
void curl_slist_free_all(curl_slist* list) { NANO_VLLM_FIND(curl_slist_free_all)(list); }

}  // extern "C"
