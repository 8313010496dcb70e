/*
 * The smallest program, for what an exec costs beside the program's own start.
 * compile: -nostdlib -ffreestanding
 */
void _start(void)
{
    __asm__ volatile("mov $60, %eax; xor %edi, %edi; syscall");
}
