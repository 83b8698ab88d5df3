// The communicator between threads: every call against plain loops at odd sizes, for one to five
// ranks; the same bits whatever the size of the buffer; failures that end everybody's calls.
#include "parallel/thread_ranks.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <functional>
#include <random>
#include <thread>

#include "nanovllm/error.h"
#include "parallel/slices.h"

namespace nanovllm {
namespace {

// f on every rank, each on a thread of its own.
void on_all(ThreadRanks& ranks, int size, const std::function<void(Communicator&)>& f) {
  std::vector<std::jthread> threads;
  for (int r = 0; r < size; ++r) threads.emplace_back([&, r] { f(ranks.rank(r)); });
}

std::vector<std::vector<float>> random_buffers(int size, int64_t n) {
  std::mt19937 rng(static_cast<uint32_t>(n));
  std::normal_distribution<float> normal;
  std::vector<std::vector<float>> buffers(size, std::vector<float>(n));
  for (auto& buffer : buffers)
    for (float& x : buffer) x = normal(rng) * std::exp(8 * normal(rng));
  return buffers;
}

TEST(Slices, CoverABufferOnce) {
  for (int size = 1; size <= 9; ++size)
    for (const int64_t n : {0, 1, 15, 16, 17, 31, 100, 1024, 1025}) {
      int64_t next = 0;
      for (int r = 0; r < size; ++r) {
        const Slice s = sum_slice(n, r, size);
        EXPECT_EQ(s.begin, next);
        EXPECT_GE(s.size(), 0);
        next = s.end;
      }
      EXPECT_EQ(next, n);
    }
}

class ThreadRanksTest : public testing::TestWithParam<int> {
 protected:
  const int size_ = GetParam();
  ThreadRanks ranks_{size_, 1};
};

// One float more or less in the order of the additions would show: the values differ by powers of
// e.
TEST_P(ThreadRanksTest, SumsInTheOrderOfTheRanks) {
  for (const int64_t n : {1, 5, 16, 47, 1000, 5000}) {
    const auto buffers = random_buffers(size_, n);
    std::vector<float> want = buffers[0];
    for (int r = 1; r < size_; ++r)
      for (int64_t i = 0; i < n; ++i) want[i] += buffers[r][i];
    std::atomic<int64_t> received = 0;
    on_all(ranks_, size_, [&](Communicator& c) {
      const int64_t before = c.bytes_received();
      std::vector<float> data = buffers[c.rank()];
      c.all_reduce(data.data(), n);
      EXPECT_EQ(std::memcmp(data.data(), want.data(), n * sizeof(float)), 0)
          << "rank " << c.rank() << " of " << size_ << ", " << n << " floats";
      received += c.bytes_received() - before;
    });
    EXPECT_EQ(received, int64_t{2 * (size_ - 1)} * n * 4);
  }
}

TEST_P(ThreadRanksTest, GathersColumnsOfUnequalWidth) {
  std::vector<int64_t> columns;
  int64_t width = 0;
  for (int r = 0; r < size_; ++r) columns.push_back(3 + r % 2), width += columns.back();
  for (const int64_t rows : {1, 7}) {
    on_all(ranks_, size_, [&](Communicator& c) {
      std::vector<float> part(rows * columns[c.rank()]), whole(rows * width, -1.0f);
      for (size_t i = 0; i < part.size(); ++i)
        part[i] = static_cast<float>(1000 * c.rank()) + static_cast<float>(i);
      c.gather_columns(part.data(), rows, columns, c.rank() == 0 ? whole.data() : nullptr);
      if (c.rank() != 0) return;
      for (int64_t row = 0; row < rows; ++row) {
        int64_t column = row * width;
        for (int r = 0; r < size_; ++r)
          for (int64_t i = 0; i < columns[r]; ++i)
            ASSERT_EQ(whole[column++],
                      static_cast<float>(1000 * r) + static_cast<float>(row * columns[r] + i));
      }
    });
  }
}

TEST_P(ThreadRanksTest, SendsMessagesOfAnySizeToAll) {
  on_all(ranks_, size_, [&](Communicator& c) {
    for (const size_t bytes : {0, 1, 1000, 3, 100'000}) {
      std::vector<std::byte> message;
      if (c.rank() == 0) message.assign(bytes, static_cast<std::byte>(bytes % 251 + 1));
      c.broadcast(message);
      ASSERT_EQ(message, std::vector<std::byte>(bytes, static_cast<std::byte>(bytes % 251 + 1)));
    }
    EXPECT_TRUE(c.broadcast(c.rank() == 0));
    EXPECT_FALSE(c.broadcast(c.rank() != 0));
    const auto all = c.all_gather(std::string(c.rank(), 'x'));
    ASSERT_EQ(std::ssize(all), size_);
    for (int r = 0; r < size_; ++r) EXPECT_EQ(all[r], std::string(r, 'x'));
  });
}

// Thousands of calls close upon each other: a rank that is ahead must not disturb one behind.
TEST_P(ThreadRanksTest, KeepsManyCallsApart) {
  on_all(ranks_, size_, [&](Communicator& c) {
    std::vector<float> data(20);
    for (int i = 0; i < 3000; ++i) {
      data.assign(data.size(), static_cast<float>(c.rank() + i));
      c.all_reduce(data.data(), 1 + i % 20);
      ASSERT_EQ(data[i % 20], static_cast<float>(size_ * (size_ - 1) / 2 + size_ * i));
      if (i % 100 == 0) c.barrier();
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Sizes, ThreadRanksTest, testing::Values(1, 2, 3, 4, 5));

TEST(ThreadRanks, AFailureEndsEverybodysCalls) {
  for (const int size : {2, 3, 5}) {
    ThreadRanks ranks(size, 1);
    std::atomic<int> told = 0;
    on_all(ranks, size, [&](Communicator& c) {
      std::vector<float> data(100, 1.0f);
      c.all_reduce(data.data(), 100);
      if (c.rank() == size - 1) return c.fail("its file is gone");
      for (int call = 0; call < 3; ++call) {
        try {
          if (call == 0) c.all_reduce(data.data(), 100);
          if (call == 1) c.barrier();
          if (call == 2) c.check();
        } catch (const Error& e) {
          EXPECT_EQ(e.where(), "rank " + std::to_string(size - 1) + " on " + c.host(0));
          EXPECT_EQ(e.reason(), "its file is gone");
          ++told;
        }
      }
    });
    EXPECT_EQ(told, 3 * (size - 1));
  }
}

}  // namespace
}  // namespace nanovllm
