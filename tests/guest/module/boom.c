// SPDX-License-Identifier: GPL-2.0
/*
 * Ways for a kernel to die that user space cannot cause: the fault (`kind`)
 * happens in the context (`how`) that is asked for. Each fault is a function
 * that is never inlined, so that a trace names it.
 */
#include <linux/delay.h>
#include <linux/interrupt.h>
#include <linux/irq_work.h>
#include <linux/kdebug.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/notifier.h>
#include <linux/sched.h>
#include <linux/smp.h>
#include <linux/string.h>
#include <linux/timer.h>

/* More than the agent's crash ring holds. */
#define FLOOD_LINES 3000

static char *kind = "null";
module_param(kind, charp, 0);
MODULE_PARM_DESC(kind, "null, bug, panic, flood or nested");

static char *how = "process";
module_param(how, charp, 0);
MODULE_PARM_DESC(how, "process, softirq, hardirq, all (CPUs at once) or drain (the agent's thread)");

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

static noinline void boom_flood(void)
{
	int i;

	for (i = 0; i < FLOOD_LINES; i++)
		pr_info("boom: flood %d\n", i);
	panic("boom after a flood");
}

/* An oops while an oops is reported. */
static int boom_die(struct notifier_block *nb, unsigned long what, void *args)
{
	static bool once;

	if (!once) {
		once = true;
		boom_bug();
	}
	return NOTIFY_DONE;
}
static struct notifier_block boom_die_block = { .notifier_call = boom_die };

static void boom_now(void)
{
	if (!strcmp(kind, "null"))
		boom_null();
	else if (!strcmp(kind, "bug"))
		boom_bug();
	else if (!strcmp(kind, "panic"))
		boom_panic();
	else if (!strcmp(kind, "flood"))
		boom_flood();
	else if (!strcmp(kind, "nested") && !register_die_notifier(&boom_die_block))
		boom_null();
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

static void boom_ipi(void *unused)
{
	boom_now();
}

/* Panics when a drain thread of the agent sends. */
static int boom_send(struct kprobe *p, struct pt_regs *regs)
{
	if (!strncmp(current->comm, "drain-", 6))
		panic("boom in the agent's own thread");
	return 0;
}
static struct kprobe boom_probe = {
	.symbol_name = "__sys_sendto",
	.pre_handler = boom_send,
};

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
	} else if (!strcmp(how, "all")) {
		on_each_cpu(boom_ipi, NULL, 0);
		msleep(1000);
	} else if (!strcmp(how, "drain")) {
		int error = register_kprobe(&boom_probe);

		if (error)
			return error;
		/* Survived, but reported: that makes the thread send. */
		boom_now();
	}
	/* Whoever loads this wanted a death; it did not come. */
	return -EINVAL;
}
module_init(boom_init);

MODULE_DESCRIPTION("lab: ways to die");
MODULE_LICENSE("GPL");
