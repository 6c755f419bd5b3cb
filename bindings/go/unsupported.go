//go:build !cgo || !linux

package sessionlock

// The build stops here, with a word about why.
func init() {
	sessionlock_needs_Linux_and_cgo__set_CGO_ENABLED_to_1_and_install_a_C_compiler()
}
