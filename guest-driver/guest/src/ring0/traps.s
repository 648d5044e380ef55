# Exceptions, interrupts and the call gate: the only way between processes.
#
# Every trap saves the integer registers of whatever ran in trap_frame (the top of the one
# interrupt stack), switches to the kernel process's page tables and enters it at kernel_iret. The kernel process has no
# other entry after boot, so for it a trap of another process is the return of a function call. It asks for
# privileged things by int3 with a function number in rax:
#   0 RESUME   load resume_frame and the page tables in resume_cr3
#   1 HALT     sti; hlt; the interrupt that ends it comes back like any trap
#   2 RETURN   nothing but the entry itself: reloads CR3
#   3 IPI      sends the interrupt command in ipi_command, where there is x2APIC
# An int3 of any other process is a trap like the rest; what it means is the kernel's matter.
#
# src/ring0/mod.rs describes the trap area to Rust; the two must agree.

.section .ring0.text, "ax"
.code64

# One stub for each vector, 16 bytes apart.
.macro stub vector
    .balign 16
    .if \vector == 3
    jmp trap_breakpoint
    .elseif \vector == 14
    push \vector
    jmp trap_page_fault
    .elseif \vector == 8 || \vector == 10 || \vector == 11 || \vector == 12 || \vector == 13 || \vector == 17 || \vector == 21 || \vector == 29 || \vector == 30
    push \vector
    jmp trap
    .elseif \vector < 32
    push 0
    push \vector
    jmp trap
    .else
    push 0
    push \vector
    jmp trap_interrupt
    .endif
.endm

.macro save_registers
    push rax
    push rbx
    push rcx
    push rdx
    push rsi
    push rdi
    push rbp
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
.endm

    .balign 16
.global trap_stubs
trap_stubs:
    .irp vector, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63
    stub \vector
    .endr
    .org trap_stubs + 64 * 16       # refused if a stub outgrew its 16 bytes

trap_breakpoint:
    cmp dword ptr [in_kernel], 0
    jne kernel_call
    push 0
    push 3
    jmp trap

trap_page_fault:
    save_registers
    mov rax, cr2
    mov qword ptr [trap_cr2], rax
    jmp enter_kernel

trap_interrupt:
    save_registers
    cmp dword ptr [x2apic], 0
    je enter_kernel
    mov ecx, 0x80b                  # end of interrupt
    xor eax, eax
    xor edx, edx
    wrmsr
    jmp enter_kernel

trap:
    save_registers
enter_kernel:
    cmp dword ptr [in_kernel], 0
    jne kernel_failed
    mov dword ptr [in_kernel], 1
return_to_kernel:
    mov rax, qword ptr [kernel_cr3]
    mov cr3, rax
    mov rsp, offset kernel_iret
    iretq

kernel_call:
    cmp eax, 1
    je kernel_halt
    cmp eax, 3
    je kernel_interrupts
    test eax, eax
    jnz return_to_kernel
    # RESUME
    mov dword ptr [in_kernel], 0
    mov rax, qword ptr [resume_cr3]
    mov cr3, rax
    mov rsp, offset resume_frame
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

kernel_interrupts:
    mfence                          # what the other CPU is told of, before it is told
    mov ecx, 0x830                  # interrupt command
    mov eax, dword ptr [ipi_command]
    mov edx, dword ptr [ipi_command + 4]
    wrmsr
    jmp return_to_kernel

kernel_halt:
    mov dword ptr [in_kernel], 0
    sti
    hlt
    jmp kernel_halt

# The kernel process itself took an exception. Once: it says so, on a stack of its own. Twice: stop.
kernel_failed:
    cmp dword ptr [in_kernel], 2
    je 2f
    mov dword ptr [in_kernel], 2
    mov rsp, offset crash_iret
    iretq
2:
    cli
    hlt
    jmp 2b

# A task-state segment: stacks for traps, and for interrupts of the second CPU.
.macro task_segment traps, interrupts
    .long 0
    .quad \traps                    # rsp0
    .quad 0, 0, 0
    .quad \traps                    # IST1
    .quad \interrupts               # IST2
    .quad 0, 0, 0, 0, 0, 0
    .word 0
    .word 104
    # Ports, from byte 104 on: 0 = allowed in ring 3.
    .skip 12, 0xff                  # 0x00-0x5f
    .byte 0xef                      # 0x60-0x67: 0x64, reset
    .skip 3, 0xff                   # 0x68-0x7f
    .byte 0xfe                      # 0x80-0x87: 0x80, the exit on purpose
    .skip 110, 0xff                 # 0x88-0x3f7
    .byte 0x00                      # 0x3f8-0x3ff: serial port
    .byte 0xff                      # the CPU reads one byte past the last
.endm

.section .ring0.trap_area, "aw"
    .balign 4096
.global trap_area
trap_area:
.global in_kernel
in_kernel:          .long 0         # 0 another process, 1 the kernel process, 2 it failed
.global x2apic
x2apic:             .long 0
.global boot_start_info
boot_start_info:    .quad 0
.global x2apic_id
x2apic_id:          .quad 0
.global boot_levels
boot_levels:        .quad 4         # of the page tables
.global kernel_cr3
kernel_cr3:         .quad boot_pml4
.global resume_cr3
resume_cr3:         .quad 0
.global trap_cr2
trap_cr2:           .quad 0
.global ipi_command
ipi_command:        .long 0, 0      # command, destination
.global kernel_iret
kernel_iret:        .quad kernel_entry, 0x33, 2, stack_end - 8, 0x2b
.global crash_iret
crash_iret:         .quad kernel_crashed, 0x33, 2, crash_stack_end - 8, 0x2b
.global resume_frame
resume_frame:       .zero 22 * 8

    .balign 16
gdt:
    .quad 0
    .quad 0
    .quad 0x00af9b000000ffff        # 0x10 ring-0 code
    .quad 0x00cf93000000ffff        # 0x18 ring-0 data
    .quad 0
    .quad 0x00cff3000000ffff        # 0x28 ring-3 data
    .quad 0x00affb000000ffff        # 0x30 ring-3 code
    .quad 0
.global gdt_tss
gdt_tss:                            # 0x40
    .quad 0x0000890000000000 + (tss_end - tss - 1)
    .quad 0
    .quad 0x00cf9b000000ffff        # 0x50 ring-0 code, 32 bits
gdt_second_tss:                     # 0x58
    .quad 0x0000890000000000 + (second_tss_end - second_tss - 1)
    .quad 0
gdt_end:
.global gdt_pointer
gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt
.global idt_pointer
idt_pointer:
    .word 64 * 16 - 1
    .quad idt

    .balign 128
.global tss
tss:
    task_segment trap_stack_end, 0
tss_end:

    .balign 16
.global idt
idt:                .zero 64 * 16   # filled by the kernel process before its first trap

    .balign 4096
    .zero 4096 - 22 * 8
.global trap_frame
trap_frame:                         # r15 ... rax, vector, error, rip, cs, rflags, rsp, ss
    .zero 22 * 8
trap_stack_end:
crash_stack:
    .zero 4096
crash_stack_end:
