# Installs what C and its neighbours expect: the library, shared and static, with its header and
# pkg-config file, the helper program with its completions, and the manual pages.
#
#   make && sudo make install                                   below /usr/local
#   make install PREFIX=$HOME/.local                            for oneself
#   make install DESTDIR=root PREFIX=/usr LIBDIR=/usr/lib64     into a package
#   sudo make uninstall                                         what was installed, and nothing else
#   make check                                                  the tests
#   make dist                                                   what is given to users, in dist/: see packaging/dist

PREFIX     = /usr/local
BINDIR     = $(PREFIX)/bin
LIBDIR     = $(PREFIX)/lib
INCLUDEDIR = $(PREFIX)/include
MANDIR     = $(PREFIX)/share/man
TMPFILESDIR = $(PREFIX)/lib/tmpfiles.d
BASHDIR    = $(PREFIX)/share/bash-completion/completions
FISHDIR    = $(PREFIX)/share/fish/vendor_completions.d
ZSHDIR     = $(PREFIX)/share/zsh/site-functions

CARGO    = cargo
INSTALL  = install
LDCONFIG = ldconfig
# A directory of its own: any other build would put a library without link-time optimisation there.
TARGET   = target/install
BUILD    = $(TARGET)/release

VERSION   := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
SONAME    := $(shell sed -n 's/.*-soname,\([a-z_.0-9]*\).*/\1/p' build.rs)
LIBRARY    = libsession_lock.so.$(VERSION)
SOURCES   := Cargo.toml Cargo.lock build.rs cli/Cargo.toml cli/build.rs $(shell find src cli/src -name '*.rs')
FUNCTIONS := $(shell sed -n 's/^[a-z][a-z *]* \**\(session_lock_[a-z]*\)[^a-z_; ].*/\1/p' include/session_lock.h)

# A prefix that nothing looks into by itself, and that belongs to nobody else.
PRIVATE    = $(if $(DESTDIR),,$(filter-out /usr /usr/local,$(PREFIX)))

.PHONY: all check install install-program install-library uninstall dist clean

all: $(BUILD)/session-lock $(BUILD)/libsession_lock.so $(BUILD)/libsession_lock.a $(BUILD)/session-lock.1

$(BUILD)/session-lock: $(SOURCES)
	$(CARGO) build --locked --release --target-dir $(TARGET) --package session-lock-cli

# After the program, whose build leaves its own idea of a shared library. "rlib" among the crate types
# would silently switch link-time optimisation off.
$(BUILD)/libsession_lock.so: $(SOURCES) | $(BUILD)/session-lock
	$(CARGO) rustc --locked --release --target-dir $(TARGET) --package session-lock --lib \
		--crate-type cdylib,staticlib -- -C strip=symbols

$(BUILD)/libsession_lock.a: $(BUILD)/libsession_lock.so ;

$(BUILD)/session-lock.1: $(BUILD)/session-lock
	$< man >$@.new
	mv $@.new $@

check:
	$(CARGO) test

install: install-program install-library
ifneq ($(PRIVATE),)
	@echo 'To use the library from here:'
	@echo '  export PKG_CONFIG_PATH=$(LIBDIR)/pkgconfig    to compile; then link with -Wl,-rpath,$(LIBDIR)'
	@echo '  export LD_LIBRARY_PATH=$(LIBDIR)    or say this to run what was linked without'
endif

PROGRAM_DIRS = $(BINDIR) $(MANDIR)/man1 $(BASHDIR) $(FISHDIR) $(ZSHDIR) $(TMPFILESDIR)

install-program: $(BUILD)/session-lock $(BUILD)/session-lock.1
	$(INSTALL) -d $(addprefix $(DESTDIR),$(PROGRAM_DIRS))
	$(INSTALL) -m 755 $(BUILD)/session-lock $(DESTDIR)$(BINDIR)
	$(INSTALL) -m 644 $(BUILD)/session-lock.1 $(DESTDIR)$(MANDIR)/man1
	$(INSTALL) -m 644 cli/src/completions/session-lock.bash $(DESTDIR)$(BASHDIR)/session-lock
	$(INSTALL) -m 644 cli/src/completions/session-lock.fish $(DESTDIR)$(FISHDIR)/session-lock.fish
	$(INSTALL) -m 644 cli/src/completions/session-lock.zsh $(DESTDIR)$(ZSHDIR)/_session-lock
	$(INSTALL) -m 644 packaging/tmpfiles.d/session-lock.conf $(DESTDIR)$(TMPFILESDIR)

LIBRARY_DIRS = $(LIBDIR)/pkgconfig $(INCLUDEDIR) $(MANDIR)/man3 $(TMPFILESDIR)

install-library: $(BUILD)/libsession_lock.so $(BUILD)/libsession_lock.a
	$(INSTALL) -d $(addprefix $(DESTDIR),$(LIBRARY_DIRS))
	$(INSTALL) -m 755 $(BUILD)/libsession_lock.so $(DESTDIR)$(LIBDIR)/$(LIBRARY)
	ln -sf $(LIBRARY) $(DESTDIR)$(LIBDIR)/$(SONAME)
	ln -sf $(SONAME) $(DESTDIR)$(LIBDIR)/libsession_lock.so
	$(INSTALL) -m 644 $(BUILD)/libsession_lock.a $(DESTDIR)$(LIBDIR)
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@LIBDIR@|$(LIBDIR)|' -e 's|@INCLUDEDIR@|$(INCLUDEDIR)|' \
		-e 's|@VERSION@|$(VERSION)|' session_lock.pc.in \
		>$(DESTDIR)$(LIBDIR)/pkgconfig/session_lock.pc
	$(INSTALL) -m 644 include/session_lock.h $(DESTDIR)$(INCLUDEDIR)
	$(INSTALL) -m 644 packaging/tmpfiles.d/session-lock.conf $(DESTDIR)$(TMPFILESDIR)
	$(INSTALL) -m 644 man/session_lock.3 $(DESTDIR)$(MANDIR)/man3
	for name in $(FUNCTIONS); do \
		echo '.so man3/session_lock.3' >$(DESTDIR)$(MANDIR)/man3/$$name.3 || exit; done
	[ -n '$(DESTDIR)' ] || $(LDCONFIG) 2>/dev/null || true

uninstall:
	rm -f $(DESTDIR)$(BINDIR)/session-lock $(DESTDIR)$(INCLUDEDIR)/session_lock.h \
		$(addprefix $(DESTDIR)$(LIBDIR)/,$(LIBRARY) $(SONAME) libsession_lock.so libsession_lock.a \
			pkgconfig/session_lock.pc) \
		$(DESTDIR)$(BASHDIR)/session-lock $(DESTDIR)$(FISHDIR)/session-lock.fish \
		$(DESTDIR)$(ZSHDIR)/_session-lock \
		$(DESTDIR)$(MANDIR)/man1/session-lock.1 $(DESTDIR)$(TMPFILESDIR)/session-lock.conf \
		$(patsubst %,$(DESTDIR)$(MANDIR)/man3/%.3,session_lock $(FUNCTIONS))
	[ -n '$(DESTDIR)' ] || $(LDCONFIG) 2>/dev/null || true
# Directories that are empty now, up to the prefix.
ifneq ($(PRIVATE),)
	cd $(PREFIX) && rmdir -p --ignore-fail-on-non-empty \
		$(patsubst $(PREFIX)/%,%,$(filter $(PREFIX)/%,$(PROGRAM_DIRS) $(LIBRARY_DIRS))) 2>/dev/null || true
endif

# Where, which targets of Rust the static program is made for, and whether the source archive has the sources
# of all crates.
DIST   = dist
STATIC = x86_64-unknown-linux-musl aarch64-unknown-linux-musl
VENDOR =

dist: all
	DIST='$(DIST)' VERSION='$(VERSION)' SONAME='$(SONAME)' BUILD='$(BUILD)' CARGO='$(CARGO)' \
		STATIC='$(STATIC)' VENDOR='$(VENDOR)' packaging/dist

clean:
	rm -rf $(TARGET) target/static target/dist $(DIST)
