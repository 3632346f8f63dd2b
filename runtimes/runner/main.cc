// SPDX-License-Identifier: Apache-2.0
// ssmrun: runs a bundle on a device that has no Python. See docs/ssmrun.md.
#include <fcntl.h>
#include <unistd.h>

#include <csignal>
#include <exception>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include "runner/commands/commands.h"
#include "runner/failure.h"
#include "runner/files.h"
#include "runner/processors.h"
#include "runner/text/visible.h"

namespace {

// A run of the model cannot be interrupted from inside, so the process ends where it stands; all
// that it could leave behind is an unfinished file.
void Interrupt(int) {
  constexpr std::string_view kMessage = "ssmrun: interrupted.\n";
  ssmrun::RemoveUnfinishedFile();
  (void)!write(STDERR_FILENO, kMessage.data(), kMessage.size());
  _exit(ssmrun::kInterrupted);
}

void Run(const ssmrun::Options& options, const ssmrun::Output& output) {
  if (options.help) return output.write(HelpText(options));
  if (options.version) return output.write(ssmrun::VersionText());
  switch (options.command) {
    case ssmrun::kInfo:
      return RunInfo(options, output);
    case ssmrun::kVerify:
      return RunVerify(options, output);
    case ssmrun::kGenerate:
      return RunGenerate(options, output);
    case ssmrun::kRun:
      return RunNetwork(options, output);
    case ssmrun::kBench:
      return RunBench(options, output);
    case ssmrun::kEval:
      return RunEval(options, output);
    case ssmrun::kWorker:
      return RunWorker(options, output);
  }
}

// A file that is opened where stdout or stderr was closed before the start would get its text.
// Read-only: what is written there fails, as it would have.
void OpenStandardFiles() {
  for (int number = 0; number <= STDERR_FILENO; ++number) {
    if (fcntl(number, F_GETFD) < 0) (void)!open("/dev/null", O_RDONLY);  // takes the lowest number
  }
}

int Fail(int code, std::string message) {
  message = "ssmrun: " + ssmrun::VisibleLine(message) + "\n";
  (void)!write(STDERR_FILENO, message.data(), message.size());
  return code;
}

}  // namespace

int main(int count, char** arguments) {
  OpenStandardFiles();
  signal(SIGINT, Interrupt);
  signal(SIGTERM, Interrupt);
  signal(SIGPIPE, SIG_IGN);  // a reader that goes away is an error of the write
  ssmrun::ProcessorsAtStart();
  try {
    const ssmrun::Output output;
    Run(ssmrun::ParseOptions({arguments + (count > 0), arguments + count}), output);
    return ssmrun::kPass;
  } catch (const ssmrun::Failure& failure) {
    return Fail(failure.exit_code, failure.message);
  } catch (const std::bad_alloc&) {
    return Fail(ssmrun::kDevice, ssmrun::kNoMemory);
  } catch (const std::exception& error) {
    return Fail(ssmrun::kInternal, std::string("internal error: ") + error.what() +
                                       ". This is a defect of ssmrun, please report it.");
  }
}
