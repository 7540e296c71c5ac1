#include "bus_error.h"

#include <algorithm>
#include <cstring>

#if !defined(_WIN32)
#include <signal.h>
#include <unistd.h>
#endif

namespace samovar {
namespace {

constexpr size_t kMaxMessage = 500;
char message_bytes[kMaxMessage];  // a signal handler may call next to nothing: what it says lies ready
size_t message_size = 0;

#if !defined(_WIN32)
void say_and_end(int) {
  if (write(STDERR_FILENO, message_bytes, message_size) < 0) _exit(2);
  _exit(1);
}
#endif

}  // namespace

void say_on_bus_error(std::string_view message) {
#if !defined(_WIN32)
  struct sigaction present {};
  if (sigaction(SIGBUS, nullptr, &present) != 0 || present.sa_handler != SIG_DFL) return;
  message_size = std::min(message.size(), kMaxMessage);
  std::memcpy(message_bytes, message.data(), message_size);
  struct sigaction action {};
  action.sa_handler = say_and_end;
  sigaction(SIGBUS, &action, nullptr);
#else
  (void)message;
#endif
}

}  // namespace samovar
