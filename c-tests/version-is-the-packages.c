/* The library says the version that it was released as. */
#include "test.h"

int main(void) {
  const char *version = session_lock_version();
  CHECK(version != NULL);
  CHECK(strcmp(version, PACKAGE_VERSION) == 0);
  CHECK(version == session_lock_version());
}
