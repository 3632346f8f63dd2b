// SPDX-License-Identifier: Apache-2.0
// Text that somebody else wrote, made fit for a terminal, as toolchain/ssmpress/printable.py.
#ifndef SSMPRESS_RUNNER_VISIBLE_H_
#define SSMPRESS_RUNNER_VISIBLE_H_

#include <string>
#include <string_view>

namespace ssmrun {

// The text with every character that a terminal obeys written out, such as \u001b: control
// characters but for tab and line feed, and what changes the order of characters. In JSON that is
// the same value. Bytes that are not UTF-8 become U+FFFD.
std::string Visible(std::string_view text);

// The same on one line: line feeds are written out too.
std::string VisibleLine(std::string_view text);

}  // namespace ssmrun

#endif  // SSMPRESS_RUNNER_VISIBLE_H_
