// Several GPUs: the sums and the gathered columns of NcclCommunicator, bit for bit; what a rank
// sees when another fails; the engine's tokens. Under emulation the GPUs and NCCL are emulated; on
// real ones a test with more ranks than there are GPUs is skipped.
#include <atomic>
#include <chrono>
#include <thread>

#include "backend/cuda/nccl_communicator.h"
#include "cuda_test_util.h"
#include "parallel/thread_ranks.h"

namespace nanovllm {
namespace {

using cuda::Element;

bool has_devices(int n) {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess && count >= n;
}

// A rank's side of a test: its device, a stream and a communicator.
struct Rank {
  Rank(Communicator& host, int64_t scratch_bytes, Element element)
      : scratch(scratch_bytes),
        communicator(host, stream,
                     {{scratch.as<std::byte>(), scratch_bytes},
                      [element](const float*) { return element; }}) {}
  cuda::Stream stream;
  cuda::DeviceBuffer scratch;
  cuda::NcclCommunicator communicator;
};

// f(host communicator) on a thread for each rank, with its device; what they threw.
std::vector<std::string> on_ranks(int size, const std::function<void(Communicator&)>& f) {
  ThreadRanks ranks(size, 1);
  std::vector<std::string> errors(size);
  std::vector<std::thread> threads;
  for (int r = 0; r < size; ++r)
    threads.emplace_back([&, r] {
      try {
        cuda::check(cudaSetDevice(r), "cudaSetDevice");
        f(ranks.rank(r));
      } catch (const std::exception& e) {
        errors[r] = e.what();
        ranks.rank(r).fail(e.what());
      }
    });
  for (std::thread& t : threads) t.join();
  return errors;
}

std::vector<float> values_of(int rank, int64_t n, Element element) {
  Random random(static_cast<uint32_t>(91 + rank));
  return rounded(random.normals(n), element == Element::kFloat32);
}

class Nccl : public ::testing::TestWithParam<int> {
 protected:
  const int size_ = GetParam();
  void SetUp() override {
    if (!has_devices(size_)) GTEST_SKIP() << "needs " << size_ << " GPUs";
  }
};

// Both ways of summing, and pieces where the scratch is too small for all.
TEST_P(Nccl, SumsInTheOrderOfTheRanks) {
  for (const Element element : {Element::kFloat32, Element::kBFloat16}) {
    const bool float32 = element == Element::kFloat32;
    for (const int64_t n : {1, 17, 4096, 300'003, 600'000}) {
      for (const int64_t scratch : {int64_t{1} << 16, cuda::Scratch::kBytes}) {
        std::vector<float> want = values_of(0, n, element);
        for (int r = 1; r < size_; ++r) {
          const std::vector<float> part = values_of(r, n, element);
          for (int64_t i = 0; i < n; ++i) want[i] += part[i];
        }
        want = rounded(want, float32);
        const auto errors = on_ranks(size_, [&](Communicator& host) {
          Rank rank(host, scratch, element);
          cuda::DeviceBuffer buffer(n * 4);
          auto* const data = buffer.as<float>();
          write_activations(values_of(host.rank(), n, element), float32, data);
          rank.communicator.all_reduce(data, n);
          rank.stream.synchronize();
          EXPECT_TRUE(same_bits(read_activations(data, n, float32), want))
              << n << " elements on rank " << host.rank();
          EXPECT_GE(rank.communicator.bytes_received(), (size_ - 1) * n * (float32 ? 4 : 2));
        });
        EXPECT_EQ(errors, std::vector<std::string>(size_));
      }
    }
  }
}

TEST_P(Nccl, GathersColumns) {
  std::vector<int64_t> columns;
  int64_t width = 0;
  for (int r = 0; r < size_; ++r) width += columns.emplace_back(40 - 7 * r);
  for (const int64_t rows : {1, 9}) {
    for (const int64_t scratch : {400, 1 << 20}) {  // one or two rows at a time, or all
      std::vector<float> want(rows * width);
      const auto at = [&](int64_t row, int64_t column) {
        return static_cast<float>(1000 * row + column);
      };
      for (int64_t i = 0; i < rows * width; ++i) want[i] = at(i / width, i % width);
      const auto errors = on_ranks(size_, [&](Communicator& host) {
        Rank rank(host, scratch, Element::kFloat32);
        int64_t first = 0;
        for (int r = 0; r < host.rank(); ++r) first += columns[r];
        const int64_t mine = columns[host.rank()];
        std::vector<float> part;
        for (int64_t i = 0; i < rows * mine; ++i) part.push_back(at(i / mine, first + i % mine));
        cuda::DeviceBuffer from(rows * mine * 4), to(rows * width * 4);
        write_activations(part, true, from.as<float>());
        rank.communicator.gather_columns(from.as<float>(), rows, columns,
                                         host.rank() == 0 ? to.as<float>() : nullptr);
        rank.stream.synchronize();
        if (host.rank() == 0) {
          EXPECT_TRUE(same_bits(read_activations(to.as<float>(), rows * width, true), want));
        }
      });
      EXPECT_EQ(errors, std::vector<std::string>(size_));
    }
  }
}

// The others wait for a sum that never comes.
TEST_P(Nccl, ARankThatFailsEndsTheOthers) {
  const auto start = std::chrono::steady_clock::now();
  const auto errors = on_ranks(size_, [&](Communicator& host) {
    Rank rank(host, 1 << 16, Element::kFloat32);
    cuda::DeviceBuffer buffer(400, true);
    rank.communicator.all_reduce(buffer.as<float>(), 100);
    if (host.rank() == size_ - 1) throw Error("this rank", "has had enough");
    rank.communicator.all_reduce(buffer.as<float>(), 100);
    rank.stream.synchronize();
  });
  EXPECT_EQ(errors.back(), "this rank: has had enough");
  for (int r = 0; r + 1 < size_; ++r)
    EXPECT_NE(errors[r].find("rank " + std::to_string(size_ - 1) + " on "), std::string::npos)
        << errors[r];
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
}

// One fails before NCCL's communicator is there.
TEST_P(Nccl, ARankThatFailsEarlyEndsTheOthers) {
  const auto errors = on_ranks(size_, [&](Communicator& host) {
    if (host.rank() == size_ - 1) {
      host.all_gather("");
      std::vector<std::byte> id;
      host.broadcast(id);
      throw Error("this rank", "has had enough");
    }
    Rank rank(host, 1 << 16, Element::kFloat32);
  });
  for (int r = 0; r + 1 < size_; ++r)
    EXPECT_NE(errors[r].find("has had enough"), std::string::npos) << errors[r];
}

TEST_P(Nccl, ARankWithoutNcclIsNamed) {
  const auto errors = on_ranks(size_, [&](Communicator& host) {
    if (host.rank() == size_ - 1) {
      host.all_gather("NCCL cannot be loaded");
      return;
    }
    Rank rank(host, 1 << 16, Element::kFloat32);
  });
  for (int r = 0; r + 1 < size_; ++r)
    EXPECT_EQ(errors[r].find("rank " + std::to_string(size_ - 1) + " on "), 0u) << errors[r];
}

INSTANTIATE_TEST_SUITE_P(Ranks, Nccl, ::testing::Values(2, 3));

}  // namespace
}  // namespace nanovllm
