// Four floats at a time, on any processor.
#define PATH portable
#define LANES 4
#define MOST_ROWS 4
#include "path.h"
