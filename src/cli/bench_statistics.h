// Mean, deviation and percentiles, as NumPy computes them; 0 of nothing.
#pragma once

#include <vector>

namespace nanovllm::cli {

double mean(const std::vector<double>& values);
double standard_deviation(const std::vector<double>& values);  // of the population
// Linear interpolation between the closest ranks.
double percentile(std::vector<double> values, double percent);

}  // namespace nanovllm::cli
