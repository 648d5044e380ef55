# From the loader to ring 3.
#
# Entered by the PVH boot protocol: 32-bit protected mode, paging off, flat segments, ebx = guest-physical
# address of hvm_start_info. Leaves in ring 3, at kernel_entry, with the first GiB of memory
# mapped identically and user-accessible; the kernel process builds everything else.
#
# Kept short on purpose: some hypervisors emulate ring 0 one instruction at a time.

.section .note.pvh, "a", @note
    .align 4
    .long 4                         # name size
    .long 4                         # descriptor size
    .long 18                        # XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long pvh_entry

.section .ring0.text, "ax"
.code32
.global pvh_entry
pvh_entry:
    cld
    mov dword ptr [boot_start_info], ebx

    # The TSS descriptor holds its base in pieces, which no relocation can express.
    mov eax, offset tss
    mov word ptr [gdt_tss + 2], ax
    shr eax, 16
    mov byte ptr [gdt_tss + 4], al
    mov byte ptr [gdt_tss + 7], ah
    lgdt [gdt_pointer]

    # Five levels where the CPU has them (CPUID.7:ECX[16]) and the command line says "la57".
    mov edi, offset boot_pml4
    mov ebp, 0x620                  # CR4: PAE, OSFXSR, OSXMMEXCPT
    mov esi, dword ptr [ebx + 24]   # command line
    test esi, esi
    jz 2f
    xor eax, eax
    cpuid
    cmp eax, 7
    jb 2f
    mov eax, 7
    xor ecx, ecx
    cpuid
    bt ecx, 16
    jnc 2f
1:  mov eax, dword ptr [esi]
    test al, al
    jz 2f
    inc esi
    cmp eax, 0x3735616c             # "la57"
    jne 1b
    mov dword ptr [boot_levels], 5
    mov edi, offset boot_pml5
    mov dword ptr [kernel_cr3], edi
    or ebp, 0x1000                  # LA57
2:
    mov eax, cr4
    or eax, ebp
    mov cr4, eax
    mov cr3, edi
    mov ecx, 0xc0000080             # EFER
    rdmsr
    or eax, 0x900                   # LME, NXE
    wrmsr
    mov eax, cr0
    and eax, 0xfffffff3             # not EM, not TS
    or eax, 0x80010022              # PG, WP, NE, MP
    mov cr0, eax
    .byte 0xea                      # ljmp: far pointer, offset then selector
    .long long_mode
    .word 0x10

.code64
long_mode:
    xor eax, eax
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov fs, eax
    mov gs, eax
    lidt [idt_pointer]
    mov eax, 0x40
    ltr ax

    # The legacy interrupt controllers stay masked; interrupts come through the I/O APIC.
    mov al, 0xff
    out 0x21, al
    out 0xa1, al

    # x2APIC where there is one (CPUID.1:ECX[21]); else the kernel process uses the MMIO page.
    mov eax, 1
    cpuid
    bt ecx, 21
    jnc 1f
    mov ecx, 0x1b                   # IA32_APIC_BASE: EN, EXTD
    rdmsr
    or eax, 0xc00
    wrmsr
    mov ecx, 0x80f                  # SVR: enabled, spurious vector 0x3f
    mov eax, 0x13f
    xor edx, edx
    wrmsr
    mov ecx, 0x802                  # the APIC's own word on its id: CPUID may tell the host's
    rdmsr
    mov dword ptr [x2apic_id], eax
    mov dword ptr [x2apic], 1
1:
    mov dword ptr [in_kernel], 1
    mov rsp, offset kernel_iret
    iretq

.section .ring0.boot_tables, "aw"
    .balign 4096
boot_pml5:
    .quad boot_pml4 + 7             # present, writable, user
    .zero 4088
boot_pml4:
    .quad boot_pdpt + 7             # present, writable, user
    .zero 127 * 8
    .quad boot_pdpt + 7             # the same memory where the direct map will be
    .zero 383 * 8
boot_pdpt:
    .quad boot_pd + 7
    .zero 4088
boot_pd:
    .set page, 0
    .rept 512
    .quad page + 0xe7               # present, writable, user, accessed, dirty, 2 MiB
    .set page, page + 0x200000
    .endr
