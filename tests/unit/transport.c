/* tests/unit/transport.c - the in-process transport: addresses, order, full and closed inboxes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "net/net.h"

static void messages_reach_their_address_in_order(void **state)
{
    (void)state;
    struct dip_local_net *net = NULL;
    assert_int_equal(dip_local_net_new(sizeof(int), 4, 3, &net), DIP_OK);
    struct dip_endpoint *a = dip_local_net_endpoint(net, 0), *b = dip_local_net_endpoint(net, 2);
    assert_int_equal(b->address, 2);
    int got = 0;
    for (int i = 1; i <= 4; i++)
        assert_int_equal(dip_endpoint_send(a, 2, &i), DIP_OK);
    assert_int_equal(dip_endpoint_send(a, 2, &got), DIP_BUSY);
    assert_int_equal(dip_endpoint_send(a, 3, &got), DIP_UNREACHABLE);
    assert_int_equal(dip_endpoint_receive(a, 0, &got), DIP_TIMEOUT);
    for (int i = 1; i <= 4; i++) {
        assert_int_equal(dip_endpoint_receive(b, 0, &got), DIP_OK);
        assert_int_equal(got, i);
    }
    assert_int_equal(dip_endpoint_send(b, 2, &got), DIP_OK); /* to itself */
    dip_endpoint_close(b);
    assert_int_equal(dip_endpoint_send(a, 2, &got), DIP_CANCELLED);
    assert_int_equal(dip_endpoint_receive(b, -1, &got), DIP_OK); /* what is inside stays */
    assert_int_equal(dip_endpoint_receive(b, -1, &got), DIP_CANCELLED);
    dip_local_net_free(net);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(messages_reach_their_address_in_order)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
