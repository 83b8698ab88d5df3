// What ranks say to each other before they load.
#include "model/agreement.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "nanovllm/error.h"
#include "parallel/thread_ranks.h"

namespace nanovllm {
namespace {

// agree() on three ranks; rank r prepares by f(r, communicator). What was thrown.
std::vector<std::string> agree_on_three(
    const std::function<std::string(int, Communicator&)>& prepare) {
  ThreadRanks ranks(3, 1);
  std::vector<std::string> errors(3);
  std::vector<std::thread> threads;
  for (int r = 0; r < 3; ++r)
    threads.emplace_back([&, r] {
      try {
        agree(ranks.rank(r), [&] { return prepare(r, ranks.rank(r)); });
      } catch (const Error& e) {
        errors[r] = e.what();
        ranks.rank(r).fail(e.what());
      }
    });
  for (std::thread& t : threads) t.join();
  return errors;
}

TEST(Agreement, TheFullestDeviceCounts) {
  const auto errors = agree_on_three([](int rank, Communicator& ranks) {
    EXPECT_EQ(least_free_bytes(ranks, {.free_bytes = 30 - 7 * rank, .total_bytes = 40}), 16);
    EXPECT_EQ(least_free_bytes(ranks, {}), INT64_MAX);
    return std::string("ready");
  });
  EXPECT_EQ(errors, std::vector<std::string>(3));
}

TEST(Agreement, OneThatThrowsBeforeIsNamed) {
  const auto errors = agree_on_three([](int rank, Communicator& ranks) {
    if (rank == 1) throw Error("its file", "is gone");
    return std::to_string(least_free_bytes(ranks, {}));
  });
  EXPECT_EQ(errors[1], "its file: is gone");
  for (const int r : {0, 2}) EXPECT_EQ(errors[r].rfind("rank 1 on ", 0), 0u) << errors[r];
}

}  // namespace
}  // namespace nanovllm
