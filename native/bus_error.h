// A last word where the system takes mapped memory away: a file that another program cuts, or a disk that fails.
#pragma once

#include <string_view>

namespace samovar {

// From here on a read of mapped memory that is not there any more (SIGBUS) writes the message to standard error and ends the process
// with status 1. Of the message at most 500 bytes are kept. A handler that is there already stays, and nothing is done.
void say_on_bus_error(std::string_view message);

}  // namespace samovar
