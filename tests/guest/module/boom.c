// SPDX-License-Identifier: GPL-2.0
/*
 * Ways for a kernel to die that user space cannot cause: the fault (`kind`)
 * happens in the context (`how`) that is asked for. Each fault is a function
 * that is never inlined, so that a trace names it.
 */
#include <linux/delay.h>
#include <linux/interrupt.h>
#include <linux/irq_work.h>
#include <linux/module.h>
#include <linux/string.h>
#include <linux/timer.h>

static char *kind = "null";
module_param(kind, charp, 0);
MODULE_PARM_DESC(kind, "null, bug or panic");

static char *how = "process";
module_param(how, charp, 0);
MODULE_PARM_DESC(how, "process, softirq or hardirq");

static noinline void boom_null(void)
{
	*(volatile int *)NULL = 1;
}

static noinline void boom_bug(void)
{
	BUG();
}

static noinline void boom_panic(void)
{
	panic("boom in %s context", how);
}

static noinline void boom_now(void)
{
	if (!strcmp(kind, "null"))
		boom_null();
	else if (!strcmp(kind, "bug"))
		boom_bug();
	else if (!strcmp(kind, "panic"))
		boom_panic();
}

static void boom_timer_fn(struct timer_list *unused)
{
	boom_now();
}
static DEFINE_TIMER(boom_timer, boom_timer_fn);

static void boom_irq_work_fn(struct irq_work *unused)
{
	boom_now();
}
static struct irq_work boom_irq_work;

static int __init boom_init(void)
{
	if (!strcmp(how, "process")) {
		boom_now();
	} else if (!strcmp(how, "softirq")) {
		mod_timer(&boom_timer, jiffies + 1);
		msleep(1000);
	} else if (!strcmp(how, "hardirq")) {
		init_irq_work(&boom_irq_work, boom_irq_work_fn);
		irq_work_queue(&boom_irq_work);
		msleep(1000);
	}
	/* Whoever loads this wanted a death; it did not come. */
	return -EINVAL;
}
module_init(boom_init);

MODULE_DESCRIPTION("lab: ways to die");
MODULE_LICENSE("GPL");
