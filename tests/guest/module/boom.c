// SPDX-License-Identifier: GPL-2.0
/*
 * Ways for a kernel to die that user space cannot cause: the fault (`kind`)
 * happens in the context (`how`) that is asked for. Each fault is a function
 * that is never inlined, so that a trace names it.
 */
#include <linux/delay.h>
#include <linux/etherdevice.h>
#include <linux/interrupt.h>
#include <linux/ip.h>
#include <linux/irq_work.h>
#include <linux/kdebug.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/notifier.h>
#include <linux/preempt.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/skbuff.h>
#include <linux/smp.h>
#include <linux/string.h>
#include <linux/tcp.h>
#include <linux/timer.h>
#include <linux/workqueue.h>
#ifdef CONFIG_X86
#include <asm/apic.h>
#include <asm/nmi.h>
#endif

/* More than the agent's crash ring holds. */
#define FLOOD_LINES 3000

/*
 * How long something stands still: longer than the detectors, set to their
 * least, need in the slowest case.
 */
#define SPIN_SECONDS 5
#define HANG_SECONDS 5
#define STALL_SECONDS 6

static char *kind = "null";
module_param(kind, charp, 0);
MODULE_PARM_DESC(kind, "null, bug, gpf, div, exec, stack, df, warn, panic, flood, nested, spin, hang, stall, or segment-long, -short, -empty, -copied or -good");

static char *how = "process";
module_param(how, charp, 0);
MODULE_PARM_DESC(how, "process, softirq, hardirq, nmi, all (CPUs at once) or drain (the agent's thread)");

static noinline void boom_null(void)
{
	*(volatile int *)NULL = 1;
}

static noinline void boom_bug(void)
{
	BUG();
}

#ifdef CONFIG_X86
/* No address: the upper bits are no copy of the one below them. */
static noinline void boom_gpf(void)
{
	*(volatile int *)0xdead000000000000UL = 1;
}

static noinline int boom_div(int by)
{
	/* In assembly: a compiler may do as it likes with a division by zero. */
	int low = 1, high = 0;

	asm volatile("idivl %2" : "+a" (low), "+d" (high) : "r" (by));
	return low;
}

/* A fault with nowhere to put its frame is a double fault. */
static noinline void boom_df(void)
{
	asm volatile("xor %%esp, %%esp\n\tpush %%rax" : : : "memory");
}
#endif

static noinline void boom_exec(void)
{
	static char data[16];
	void (*run)(void) = (void (*)(void))data;

	/* objtool would look for the code. */
	OPTIMIZER_HIDE_VAR(run);
	run();
}

/* Until the guard page below the stack. */
static noinline int boom_stack(int depth)
{
	/* Hardened kernels would have memset() overflow, in its own name. */
	volatile char room[256] __attribute__((uninitialized));

	room[0] = depth;
	return depth < 0 ? 0 : boom_stack(depth + 1) + room[0];
}

static noinline void boom_warn(void)
{
	WARN(1, "boom: something is odd\n");
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

/* A CPU does nothing else; its interrupts are served. */
static noinline void boom_spin(int seconds)
{
	unsigned long end = jiffies + seconds * HZ;

	preempt_disable();
	while (time_before(jiffies, end))
		cpu_relax();
	preempt_enable();
}

static noinline void boom_hang(void)
{
	/* Uninterruptible, as a task that waits for a dead disk. */
	msleep(HANG_SECONDS * 1000);
}

static void boom_rcu_done(struct rcu_head *unused)
{
}

static void boom_grace(struct work_struct *unused)
{
	synchronize_rcu();
}
static DECLARE_WORK(boom_grace_work, boom_grace);

/*
 * A grace period begins, and this CPU does not let it end. Another CPU asks for one as
 * well: the thread that begins it may have been woken on this one.
 */
static noinline void boom_stall(void)
{
	static struct rcu_head head;
	unsigned int other = cpumask_any_but(cpu_online_mask, raw_smp_processor_id());

	if (other < nr_cpu_ids)
		schedule_work_on(other, &boom_grace_work);
	call_rcu(&head, boom_rcu_done);
	boom_spin(STALL_SECONDS);
	flush_work(&boom_grace_work);
	/* The callback is this module's. */
	rcu_barrier();
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

/*
 * A packet with a list that no driver and no GRO should make, but an eBPF program that
 * takes bytes off gso_size, a tunnel or a bug in either does.
 */
struct boom_packet {
	const char *kind;
	/* gso_size, and bytes of the packet's own. */
	unsigned int size, own;
	/* Bytes of the elements of its list. */
	unsigned int elements, len[2];
	/* Their data lies in pages. */
	bool pages;
};

static const struct boom_packet boom_packets[] = {
	{ "segment-long", 75, 150, 1, { 125 }, true },
	{ "segment-short", 450, 450, 2, { 400, 400 }, true },
	{ "segment-empty", 75, 100, 2, { 0, 125 }, true },
	{ "segment-copied", 75, 100, 1, { 125 }, false },
	{ "segment-good", 125, 125, 2, { 125, 125 }, true },
};

#define BOOM_HEADERS (ETH_HLEN + sizeof(struct iphdr) + sizeof(struct tcphdr))

static struct sk_buff *boom_piece(unsigned int len, bool page)
{
	struct sk_buff *skb = NULL;
	void *data;

	if (page) {
		data = (void *)__get_free_page(GFP_ATOMIC);
		if (data)
			skb = build_skb(data, PAGE_SIZE);
	} else {
		skb = alloc_skb(PAGE_SIZE / 2, GFP_ATOMIC);
	}
	if (!skb)
		return NULL;
	skb_reserve(skb, NET_SKB_PAD);
	memset(skb_put(skb, len), 0, len);
	return skb;
}

static noinline void boom_segment(const struct boom_packet *packet)
{
	struct sk_buff *skb = boom_piece(BOOM_HEADERS + packet->own, true);
	struct sk_buff **last, *piece, *segments;
	unsigned int i;

	if (!skb)
		return;
	skb_reset_mac_header(skb);
	skb_set_network_header(skb, ETH_HLEN);
	skb_set_transport_header(skb, ETH_HLEN + sizeof(struct iphdr));
	skb->protocol = htons(ETH_P_IP);
	/* Of the devices, one that has a driver. */
	skb->dev = __dev_get_by_name(&init_net, "eth0");
	__skb_pull(skb, BOOM_HEADERS);
	last = &skb_shinfo(skb)->frag_list;
	for (i = 0; i < packet->elements; i++) {
		piece = boom_piece(packet->len[i], packet->pages);
		if (!piece)
			return;
		*last = piece;
		last = &piece->next;
		skb->len += piece->len;
		skb->data_len += piece->len;
		skb->truesize += piece->truesize;
	}
	skb_shinfo(skb)->gso_size = packet->size;
	skb_shinfo(skb)->gso_type = SKB_GSO_TCPV4;
	segments = skb_segment(skb, NETIF_F_SG | NETIF_F_HW_CSUM);
	if (!IS_ERR_OR_NULL(segments))
		kfree_skb_list(segments);
	skb->dev = NULL;
	kfree_skb(skb);
}

static void boom_now(void)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(boom_packets); i++)
		if (!strcmp(kind, boom_packets[i].kind))
			boom_segment(&boom_packets[i]);
	if (!strcmp(kind, "null"))
		boom_null();
	else if (!strcmp(kind, "bug"))
		boom_bug();
#ifdef CONFIG_X86
	else if (!strcmp(kind, "gpf"))
		boom_gpf();
	else if (!strcmp(kind, "div"))
		boom_div(0);
	else if (!strcmp(kind, "df"))
		boom_df();
#endif
	else if (!strcmp(kind, "exec"))
		boom_exec();
	else if (!strcmp(kind, "stack"))
		boom_stack(0);
	else if (!strcmp(kind, "warn"))
		boom_warn();
	else if (!strcmp(kind, "panic"))
		boom_panic();
	else if (!strcmp(kind, "flood"))
		boom_flood();
	else if (!strcmp(kind, "spin"))
		boom_spin(SPIN_SECONDS);
	else if (!strcmp(kind, "hang"))
		boom_hang();
	else if (!strcmp(kind, "stall"))
		boom_stall();
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

#ifdef CONFIG_X86
static int boom_nmi_fn(unsigned int type, struct pt_regs *regs)
{
	boom_now();
	return NMI_HANDLED;
}

/*
 * This CPU interrupts itself. Written straight into the local APIC: what the
 * kernel has for it is not for modules.
 */
static int boom_nmi(void)
{
	int error = register_nmi_handler(NMI_LOCAL, boom_nmi_fn, 0, "boom");

	if (error)
		return error;
	if (x2apic_enabled())
		native_x2apic_icr_write(APIC_DEST_SELF | APIC_DM_NMI, 0);
	else
		native_apic_mem_write(APIC_ICR, APIC_DEST_SELF | APIC_DM_NMI);
	msleep(1000);
	unregister_nmi_handler(NMI_LOCAL, "boom");
	return 0;
}
#else
static int boom_nmi(void)
{
	return -EOPNOTSUPP;
}
#endif

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
	} else if (!strcmp(how, "nmi")) {
		int error = boom_nmi();

		if (error)
			return error;
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
