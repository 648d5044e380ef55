# The second CPU: from INIT-SIPI to ring 3, and what it does when its process traps.
#
# It runs one process and has no kernel of its own. A trap saves the registers in second_frame, says so in second_state,
# interrupts the first CPU, and waits in hlt until the kernel process there has answered: second_go. Its one
# interrupt, on a stack of its own, ends that wait and drops what the CPU has cached of page tables.
#
# src/ring0/second.rs describes all this to Rust; the two must agree.

# Copied by the kernel process, which can read this section, to guest-physical 0x8000, where SIPI sends the CPU; the
# image lies above what real mode reaches.
.section .ring0.trap_area, "aw"
    .balign 16
.code16
.global second_trampoline
second_trampoline:
    cli
    xor eax, eax
    mov ds, ax
    lgdt [0x8040]                   # second_gdt_pointer
    mov eax, cr0
    or eax, 1
    mov cr0, eax
    .byte 0x66, 0xea                # ljmp: far pointer, offset then selector
    .long second_protected
    .word 0x50
    .org second_trampoline + 0x40
second_gdt_pointer:                 # real mode takes 24 bits of it
    .word gdt_end - gdt - 1
    .long gdt
.global second_trampoline_end
second_trampoline_end:

.section .ring0.text, "ax"
.code32
second_protected:
    mov eax, 0x18
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov eax, offset second_tss
    mov word ptr [gdt_second_tss + 2], ax
    shr eax, 16
    mov byte ptr [gdt_second_tss + 4], al
    mov byte ptr [gdt_second_tss + 7], ah

    # As the first CPU did.
    mov edi, offset boot_pml4
    mov ebp, 0x620                  # CR4: PAE, OSFXSR, OSXMMEXCPT
    cmp dword ptr [boot_levels], 5
    jne 1f
    mov edi, offset boot_pml5
    or ebp, 0x1000                  # LA57
1:  mov eax, cr4
    or eax, ebp
    mov cr4, eax
    mov cr3, edi
    mov ecx, 0xc0000080             # EFER
    rdmsr
    or eax, 0x900                   # LME, NXE
    wrmsr
    mov eax, cr0
    and eax, 0x9ffffff3             # not CD, not NW, not EM, not TS
    or eax, 0x80010022              # PG, WP, NE, MP
    mov cr0, eax
    .byte 0xea                      # ljmp
    .long second_long_mode
    .word 0x10

.code64
second_long_mode:
    xor eax, eax
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov fs, eax
    mov gs, eax
    lidt [second_idt_pointer]
    mov eax, 0x58
    ltr ax
    fninit
    mov ecx, 0x1b                   # IA32_APIC_BASE: EN, EXTD
    rdmsr
    or eax, 0xc00
    wrmsr
    mov ecx, 0x80f                  # SVR: enabled, spurious vector 0x3f
    mov eax, 0x13f
    xor edx, edx
    wrmsr
    mov dword ptr [second_state], 1

second_wait:
    cmp dword ptr [second_go], 0
    jne second_resume
    sti
    hlt
    cli
    jmp second_wait

second_resume:
    # Before the page tables: who changes them from here on sends an interrupt. And before second_go: whoever finds
    # that taken back and a trap has found a new one.
    mov dword ptr [second_state], 2
    mov dword ptr [second_go], 0
    mfence
    mov rax, qword ptr [second_cr3]
    mov cr3, rax
    mov rsp, offset second_resume_frame
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rbp
    pop rdi
    pop rsi
    pop rdx
    pop rcx
    pop rbx
    pop rax
    add rsp, 16                     # vector, error code
    iretq

# Exceptions, and the breakpoint that is a call: as on the first CPU.
.macro second_stub vector
    .balign 16
    .if \vector == 8 || \vector == 10 || \vector == 11 || \vector == 12 || \vector == 13 || \vector == 14 || \vector == 17 || \vector == 21 || \vector == 29 || \vector == 30
    push \vector
    .else
    push 0
    push \vector
    .endif
    jmp second_trap
.endm

    .balign 16
.global second_stubs
second_stubs:
    .irp vector, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
    second_stub \vector
    .endr
    .org second_stubs + 32 * 16     # refused if a stub outgrew its 16 bytes

second_trap:
    save_registers
    mov rax, cr2
    mov qword ptr [second_cr2], rax
    mov dword ptr [second_state], 3
    mfence                          # the registers before the word of them
    mov ecx, 0x830                  # interrupt command: vector 0x3e, to the first CPU
    mov eax, 0x403e
    mov edx, dword ptr [x2apic_id]
    wrmsr
    jmp second_wait

.global second_interrupt
second_interrupt:
    push rax
    push rcx
    push rdx
    mov rax, cr3
    mov cr3, rax
    lock inc dword ptr [second_flushed]
    mov ecx, 0x80b                  # end of interrupt
    xor eax, eax
    xor edx, edx
    wrmsr
    pop rdx
    pop rcx
    pop rax
.global second_spurious
second_spurious:
    iretq

.section .ring0.trap_area, "aw"
    .balign 16
.global second_state
second_state:       .long 0         # 0 not started, 1 waits for its first process, 2 runs it, 3 it trapped
.global second_go
second_go:          .long 0         # 1 resume
.global second_flushed
second_flushed:     .long 0         # interrupts taken
                    .long 0
.global second_cr2
second_cr2:         .quad 0
.global second_cr3
second_cr3:         .quad 0
.global second_resume_frame
second_resume_frame: .zero 22 * 8
second_idt_pointer:
    .word 64 * 16 - 1
    .quad second_idt

    .balign 128
second_tss:
    task_segment second_trap_stack_end, second_interrupt_stack_end
second_tss_end:

    .balign 16
.global second_idt
second_idt:         .zero 64 * 16   # filled by the kernel process before it starts this CPU

    .balign 4096
    .zero 4096 - 22 * 8
.global second_frame
second_frame:                       # r15 ... rax, vector, error, rip, cs, rflags, rsp, ss
    .zero 22 * 8
second_trap_stack_end:
    .zero 4096
second_interrupt_stack_end:
