# tools/image/flags.sh - how everything in an image is compiled; sourced by build-grpc and build-program.
#
# What a network daemon should have (stack protector, fortified libc calls, control-flow marks, full RELRO), no paths of
# the building machine, sections that the linker can drop one by one. PIE is the compiler's default.
flags_c="-O2 -fstack-protector-strong -fstack-clash-protection -fcf-protection -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=3 -ffunction-sections -fdata-sections"
flags_link="-Wl,-z,relro,-z,now -Wl,--gc-sections -Wl,--as-needed"

# flags_map FOLDER NAME: the option that writes NAME where the compiler would write FOLDER
flags_map() { printf -- '-ffile-prefix-map=%s=%s' "$1" "$2"; }

# The moment that files carry: that of the last commit, unless the caller knows better.
flags_epoch() { echo "${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}"; }

# ccache would write relative names where the compiler writes mapped ones.
unset CCACHE_BASEDIR CCACHE_NOHASHDIR
