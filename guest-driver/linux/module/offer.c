// SPDX-License-Identifier: GPL-2.0
/*
 * Capabilities between domains: offers made, and offers that have arrived and
 * wait for a listener (SPEC section 7.3).
 *
 * What waits is bounded: BYWAY_OFFERS_PER_PEER of each peer, and links bound
 * the peers. The engine bounds the offers that stand, so where there are more
 * here, the oldest have ended without our being told.
 */
#include <linux/file.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "internal.h"

#define BYWAY_OFFERS_PER_PEER	1024
#define BYWAY_OFFERS_MAX	16384

/* FNV-1a, 64 bits, of the name without its padding. */
u64 byway_label(const u8 port[BYWAY_IOC_NAME_BYTES])
{
	u64 label = BYWAY_IOC_LABEL_BASIS;
	size_t at;

	for (at = 0; at < BYWAY_IOC_NAME_BYTES && port[at]; at++)
		label = (label ^ port[at]) * BYWAY_IOC_LABEL_PRIME;
	return label;
}

int byway_lookup(struct byway_session *session, const u8 name[BYWAY_NAME_BYTES],
		 struct byway_lookup_reply *reply)
{
	struct byway_lookup_request request;

	BUILD_BUG_ON(BYWAY_IOC_NAME_BYTES != BYWAY_NAME_BYTES);
	memcpy(request.name, name, sizeof(request.name));
	return byway_call(session, BYWAY_REQUEST_LOOKUP, &request, sizeof(request), reply,
			  sizeof(*reply), BYWAY_KILLABLE);
}

long byway_offer_make(struct byway_context *context, void __user *arg)
{
	struct byway_cap_offer_request offer = {};
	struct byway_cap_offer_reply reply;
	struct byway_lookup_reply peer;
	struct byway_ioc_offer request;
	struct byway_cap *cap;
	struct file *file;
	long err;

	if (copy_from_user(&request, arg, sizeof(request)))
		return -EFAULT;
	if (request.flags || request.reserved || byway_name_check(request.peer) ||
	    byway_name_check(request.port))
		return -EINVAL;
	cap = byway_cap_from_fd(request.cap_fd, &file);
	if (IS_ERR(cap))
		return PTR_ERR(cap);
	err = -EXDEV;
	if (cap->context->session->device != context->session->device)
		goto put_file;
	err = byway_context_check(cap->context);
	if (err)
		goto put_file;
	err = byway_lookup(context->session, request.peer, &peer);
	if (err)
		goto put_file;
	offer.context = cpu_to_le32(cap->context->id);
	offer.slot = cpu_to_le32(cap->slot);
	offer.domain = peer.domain;
	offer.rights = cpu_to_le32(request.rights);
	offer.label = cpu_to_le64(byway_label(request.port));
	err = byway_call(context->session, BYWAY_REQUEST_CAP_OFFER, &offer, sizeof(offer),
			 &reply, sizeof(reply), BYWAY_KILLABLE);
	if (err)
		goto put_file;
	request.offer = le64_to_cpu(reply.offer);
	if (copy_to_user(arg, &request, sizeof(request)))
		err = -EFAULT;	/* the offer stands; it ends with the capability */
put_file:
	fput(file);
	return err;
}

/* ---- offers that have arrived ------------------------------------------------ */

static void byway_offer_drop(struct byway_session *session, struct byway_offer *offer)
{
	list_del(&offer->node);
	session->offers_count--;
	byway_count(session, offers_dropped);
	kfree(offer);
}

/* Makes room for one more of a peer. Under offers_lock. */
static void byway_offers_trim(struct byway_session *session, u32 domain)
{
	struct byway_offer *offer, *oldest = NULL;
	unsigned int count = 0;

	list_for_each_entry(offer, &session->offers, node) {
		if (offer->domain != domain)
			continue;
		oldest = oldest ?: offer;
		count++;
	}
	if (count >= BYWAY_OFFERS_PER_PEER)
		byway_offer_drop(session, oldest);
}

/* A peer offers a capability. */
void byway_offer_arrived(struct byway_session *session, const struct byway_event *event)
{
	struct byway_offer *offer = kmalloc(sizeof(*offer), GFP_KERNEL);

	byway_count(session, offers);
	if (!offer) {
		byway_count(session, offers_dropped);
		return;
	}
	offer->id = le64_to_cpu(event->id);
	offer->label = le64_to_cpu(event->label);
	offer->domain = le32_to_cpu(event->object);
	spin_lock(&session->offers_lock);
	byway_offers_trim(session, offer->domain);
	if (session->offers_count < BYWAY_OFFERS_MAX) {
		list_add_tail(&offer->node, &session->offers);
		session->offers_count++;
		offer = NULL;
	}
	spin_unlock(&session->offers_lock);
	if (offer) {
		byway_count(session, offers_dropped);
		kfree(offer);
		return;
	}
	wake_up_all(&session->offers_wait);
}

/* A peer has gone, its offers with it. */
void byway_offers_gone(struct byway_session *session, u32 domain)
{
	struct byway_offer *offer, *next;

	spin_lock(&session->offers_lock);
	list_for_each_entry_safe(offer, next, &session->offers, node)
		if (offer->domain == domain)
			byway_offer_drop(session, offer);
	spin_unlock(&session->offers_lock);
}

/* The session has ended. */
void byway_offers_clear(struct byway_session *session)
{
	struct byway_offer *offer, *next;

	spin_lock(&session->offers_lock);
	list_for_each_entry_safe(offer, next, &session->offers, node)
		byway_offer_drop(session, offer);
	spin_unlock(&session->offers_lock);
	wake_up_all(&session->offers_wait);
}

static struct byway_offer *byway_offer_first(struct byway_listener *listener)
{
	struct byway_offer *offer;

	list_for_each_entry(offer, &listener->context->session->offers, node)
		if (offer->label == listener->label &&
		    (listener->any_peer || offer->domain == listener->peer))
			return offer;
	return NULL;
}

/* Takes the oldest offer for a listener off the list, or returns NULL. */
struct byway_offer *byway_offer_take(struct byway_listener *listener)
{
	struct byway_session *session = listener->context->session;
	struct byway_offer *offer;

	spin_lock(&session->offers_lock);
	offer = byway_offer_first(listener);
	if (offer) {
		list_del(&offer->node);
		session->offers_count--;
	}
	spin_unlock(&session->offers_lock);
	return offer;
}

/* It still stands: the next accept gets it first. */
void byway_offer_return(struct byway_listener *listener, struct byway_offer *offer)
{
	struct byway_session *session = listener->context->session;

	spin_lock(&session->offers_lock);
	list_add(&offer->node, &session->offers);
	session->offers_count++;
	spin_unlock(&session->offers_lock);
	wake_up_all(&session->offers_wait);
}

bool byway_offer_waits(struct byway_listener *listener)
{
	struct byway_session *session = listener->context->session;
	bool waits;

	spin_lock(&session->offers_lock);
	waits = byway_offer_first(listener);
	spin_unlock(&session->offers_lock);
	return waits;
}
