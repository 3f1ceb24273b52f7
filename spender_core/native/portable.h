/* What the kernels share. Plain C11: no Python, no torch, no threads, no allocation.

   A kernel works on rows [first, last) of a batch, so that its caller can share rows among
   threads. SPENDER_CLONES compiles a function for several instruction sets and picks one when
   the library is loaded; where the compiler or the system cannot, only the plain one is made. */

#ifndef SPENDER_PORTABLE_H
#define SPENDER_PORTABLE_H

#include <stdint.h>
#include <string.h>

#if defined(_WIN32)
#define SPENDER_API __declspec(dllexport)
#else
#define SPENDER_API __attribute__((visibility("default")))
#endif

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define SPENDER_X86 1
#else
#define SPENDER_X86 0
#endif

#if SPENDER_X86 && !defined(SPENDER_PLAIN) && defined(__linux__) && defined(__GLIBC__) && !defined(__clang__)
#define SPENDER_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define SPENDER_CLONES
#endif

#endif
