# Boot headers: what a loader reads to learn how this image wants to be loaded.
#
# Three protocols, one image:
#   Multiboot 1   QEMU's -kernel, GRUB's `multiboot`. The image is an ELF64 file,
#                 which Multiboot 1 does not know, so the header carries the
#                 addresses itself (flag bit 16) and the loader never looks at
#                 the ELF headers. The linker script keeps
#                 (file offset - physical address) constant for that.
#   Multiboot 2   GRUB's `multiboot2`, BIOS and UEFI. Loads the ELF64 segments
#                 by their physical addresses. Boot services are ended by GRUB
#                 (they are not asked for), so the entry state is the i386 one
#                 on UEFI, too.
#   PVH           a Xen ELF note with a 32-bit physical entry point.
#
# Sources: Multiboot Specification 0.6.96 section 3.1, Multiboot2 Specification
# 2.0 section 3.1, xen/elfnote.h and the PVH boot ABI of Xen's documents.

    .set IMAGE_BASE,            0xffff82d040000000

    .set MULTIBOOT1_MAGIC,      0x1badb002
    .set MULTIBOOT1_PAGE_ALIGN, 1 << 0
    .set MULTIBOOT1_MEMORY,     1 << 1
    .set MULTIBOOT1_ADDRESSES,  1 << 16
    .set MULTIBOOT1_FLAGS,      MULTIBOOT1_PAGE_ALIGN | MULTIBOOT1_MEMORY | MULTIBOOT1_ADDRESSES

    .set MULTIBOOT2_MAGIC,      0xe85250d6
    .set MULTIBOOT2_OPTIONAL,   1

    .set XEN_ELFNOTE_PHYS32_ENTRY, 18

    .section .boot.headers, "a", @progbits

    .balign 8
.Lmultiboot1_header:
    .long MULTIBOOT1_MAGIC
    .long MULTIBOOT1_FLAGS
    .long -(MULTIBOOT1_MAGIC + MULTIBOOT1_FLAGS)
    .long .Lmultiboot1_header - IMAGE_BASE    # header_addr
    .long __image_start - IMAGE_BASE        # load_addr
    .long __load_end - IMAGE_BASE           # load_end_addr
    .long __bss_end - IMAGE_BASE            # bss_end_addr
    .long multiboot_entry - IMAGE_BASE      # entry_addr

    .balign 8
.Lmultiboot2_header:
    .long MULTIBOOT2_MAGIC
    .long 0                                 # architecture: i386, protected mode
    .long .Lmultiboot2_header_end - .Lmultiboot2_header
    .long -(MULTIBOOT2_MAGIC + (.Lmultiboot2_header_end - .Lmultiboot2_header))

    .balign 8
1:  .short 1                                # information request
    .short MULTIBOOT2_OPTIONAL
    .long 2f - 1b
    .long 4                                 # basic memory information
    .long 6                                 # memory map
    .long 14                                # ACPI old RSDP
    .long 15                                # ACPI new RSDP
    .long 17                                # EFI memory map
2:
    .balign 8
    .short 3                                # entry address
    .short 0
    .long 12
    .long multiboot_entry - IMAGE_BASE

    .balign 8
    .short 6                                # modules on page boundaries
    .short 0
    .long 8

    .balign 8
    .short 0                                # end
    .short 0
    .long 8
.Lmultiboot2_header_end:

    .section .note.Xen, "a", @note
    .balign 4
    .long 4                                 # name size
    .long 8                                 # descriptor size
    .long XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad pvh_entry - IMAGE_BASE
