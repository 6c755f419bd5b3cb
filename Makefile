# Installs what C and its neighbours expect: the library, shared and static, with its header and
# pkg-config file, the helper program, and the manual pages.
#
#   make && sudo make install                                   below /usr/local
#   make install DESTDIR=root PREFIX=/usr LIBDIR=/usr/lib64     into a package
#   sudo make uninstall                                         what was installed, and nothing else

PREFIX     = /usr/local
BINDIR     = $(PREFIX)/bin
LIBDIR     = $(PREFIX)/lib
INCLUDEDIR = $(PREFIX)/include
MANDIR     = $(PREFIX)/share/man
TMPFILESDIR = $(PREFIX)/lib/tmpfiles.d

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

.PHONY: all install uninstall clean

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

install: all
	$(INSTALL) -d $(addprefix $(DESTDIR),$(BINDIR) $(LIBDIR)/pkgconfig $(INCLUDEDIR) \
		$(MANDIR)/man1 $(MANDIR)/man3 $(TMPFILESDIR))
	$(INSTALL) -m 755 $(BUILD)/session-lock $(DESTDIR)$(BINDIR)
	$(INSTALL) -m 755 $(BUILD)/libsession_lock.so $(DESTDIR)$(LIBDIR)/$(LIBRARY)
	ln -sf $(LIBRARY) $(DESTDIR)$(LIBDIR)/$(SONAME)
	ln -sf $(SONAME) $(DESTDIR)$(LIBDIR)/libsession_lock.so
	$(INSTALL) -m 644 $(BUILD)/libsession_lock.a $(DESTDIR)$(LIBDIR)
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@LIBDIR@|$(LIBDIR)|' -e 's|@INCLUDEDIR@|$(INCLUDEDIR)|' \
		-e 's|@VERSION@|$(VERSION)|' session_lock.pc.in \
		>$(DESTDIR)$(LIBDIR)/pkgconfig/session_lock.pc
	$(INSTALL) -m 644 include/session_lock.h $(DESTDIR)$(INCLUDEDIR)
	$(INSTALL) -m 644 packaging/tmpfiles.d/session-lock.conf $(DESTDIR)$(TMPFILESDIR)
	$(INSTALL) -m 644 $(BUILD)/session-lock.1 $(DESTDIR)$(MANDIR)/man1
	$(INSTALL) -m 644 man/session_lock.3 $(DESTDIR)$(MANDIR)/man3
	for name in $(FUNCTIONS); do \
		echo '.so man3/session_lock.3' >$(DESTDIR)$(MANDIR)/man3/$$name.3 || exit; done
	[ -n '$(DESTDIR)' ] || $(LDCONFIG) 2>/dev/null || true

uninstall:
	rm -f $(DESTDIR)$(BINDIR)/session-lock $(DESTDIR)$(INCLUDEDIR)/session_lock.h \
		$(addprefix $(DESTDIR)$(LIBDIR)/,$(LIBRARY) $(SONAME) libsession_lock.so libsession_lock.a \
			pkgconfig/session_lock.pc) \
		$(DESTDIR)$(MANDIR)/man1/session-lock.1 $(DESTDIR)$(TMPFILESDIR)/session-lock.conf \
		$(patsubst %,$(DESTDIR)$(MANDIR)/man3/%.3,session_lock $(FUNCTIONS))

clean:
	rm -rf $(TARGET)
