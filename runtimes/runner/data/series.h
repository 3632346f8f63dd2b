// SPDX-License-Identifier: Apache-2.0
// Series of numbers, as toolchain/ssmpress/data/series.py reads them.
#ifndef SSMPRESS_RUNNER_SERIES_H_
#define SSMPRESS_RUNNER_SERIES_H_

#include <string>
#include <vector>

namespace ssmrun {

// Columns of a series, and what is subtracted from the values of each and divides them.
struct Variates {
  std::vector<std::string> names;
  std::vector<double> mean, std;
};

// A .csv file with a heading, rows in the order of time: (rows, variates), (x - mean) / std.
// Throws kBadInput with the line.
std::vector<float> ReadSeries(const std::string& path, const Variates& variates);

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_SERIES_H_
