/* net/rpc_tls.c - PEM files to credentials, checked before gRPC sees them.
 *
 * gRPC would take a certificate and a key that do not belong together and fail every handshake with
 * a line in its log, so libcrypto looks at them first: PEM at all, key of this certificate, valid
 * now. A change is noticed by each file's device, inode, size and time, which also catches the
 * swapped symbolic link of a mounted secret.
 *
 * A use belongs to one server or channel. That of a server is read and written by gRPC's fetcher
 * only, which gRPC calls under its own lock. */
#include "net/rpc_tls.h"

#include <grpc/grpc_security.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/assert.h"
#include "base/file.h"
#include "net/rpc_private.h"

enum { PEM_BYTES_MAX = 1 << 20, FILES = 3 };

struct dip_rpc_tls {
    char *paths[FILES]; /* certificate, key, roots; NULL = none */
};

struct stamp {
    dev_t device;
    ino_t inode;
    off_t bytes;
    struct timespec changed;
};

struct pems {
    char *text[FILES]; /* NULL = no such file */
    struct stamp stamps[FILES];
};

struct dip__rpc_tls_use {
    const struct dip_rpc_tls *tls;
    bool is_loaded;
    struct stamp stamps[FILES];
};

/* ---- checking ---- */

static X509 *read_certificate(const char *pem)
{
    BIO *bio = BIO_new_mem_buf(pem, -1);
    X509 *certificate = bio ? PEM_read_bio_X509(bio, NULL, NULL, NULL) : NULL;
    BIO_free(bio);
    return certificate;
}

/* An encrypted key would otherwise be asked for on the terminal. */
static int no_password(char *buffer, int bytes, int is_writing, void *context)
{
    (void)buffer, (void)bytes, (void)is_writing, (void)context;
    return -1;
}

static EVP_PKEY *read_key(const char *pem)
{
    BIO *bio = BIO_new_mem_buf(pem, -1);
    EVP_PKEY *key = bio ? PEM_read_bio_PrivateKey(bio, NULL, no_password, NULL) : NULL;
    BIO_free(bio);
    return key;
}

static enum dip_status check_pair(const struct dip_rpc_tls *tls, const struct pems *pems,
                                  struct dip_why *why)
{
    enum dip_status status = DIP_OK;
    X509 *certificate = read_certificate(pems->text[0]);
    EVP_PKEY *key = read_key(pems->text[1]);
    if (!certificate)
        status = dip_fail(why, DIP_CORRUPT, "%s holds no PEM certificate", tls->paths[0]);
    else if (!key)
        status = dip_fail(why, DIP_CORRUPT, "%s holds no PEM private key without a password",
                          tls->paths[1]);
    else if (X509_check_private_key(certificate, key) != 1)
        status =
            dip_fail(why, DIP_INVALID, "the key in %s does not belong to the certificate in %s",
                     tls->paths[1], tls->paths[0]);
    else if (X509_cmp_current_time(X509_get0_notAfter(certificate)) <= 0)
        status = dip_fail(why, DIP_INVALID, "the certificate in %s has expired", tls->paths[0]);
    else if (X509_cmp_current_time(X509_get0_notBefore(certificate)) >= 0)
        status =
            dip_fail(why, DIP_INVALID, "the certificate in %s is not valid yet", tls->paths[0]);
    X509_free(certificate);
    EVP_PKEY_free(key);
    ERR_clear_error(); /* the queue is per thread, and gRPC reads it, too */
    return status;
}

static enum dip_status check_roots(const struct dip_rpc_tls *tls, const struct pems *pems,
                                   struct dip_why *why)
{
    X509 *certificate = read_certificate(pems->text[2]);
    bool is_there = certificate != NULL;
    X509_free(certificate);
    ERR_clear_error();
    return is_there ? DIP_OK
                    : dip_fail(why, DIP_CORRUPT, "%s holds no PEM certificate", tls->paths[2]);
}

static int64_t expiry_of(const X509 *certificate)
{
    struct tm time;
    if (ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &time) != 1)
        return 0;
    return (int64_t)timegm(&time);
}

int64_t dip_rpc_pem_expiry_s(const char *path)
{
    char *text = NULL;
    size_t bytes = 0;
    int64_t first_s = 0;
    if (!path || dip_file_read(path, PEM_BYTES_MAX, NULL, &text, &bytes))
        return 0;
    BIO *bio = BIO_new_mem_buf(text, -1);
    for (X509 *certificate; bio && (certificate = PEM_read_bio_X509(bio, NULL, NULL, NULL));) {
        int64_t expiry_s = expiry_of(certificate);
        if (expiry_s > 0 && (first_s == 0 || expiry_s < first_s))
            first_s = expiry_s;
        X509_free(certificate);
    }
    BIO_free(bio);
    free(text);
    ERR_clear_error();
    return first_s;
}

/* ---- reading ---- */

static void pems_free(struct pems *pems)
{
    for (int i = 0; i < FILES; i++) {
        if (pems->text[i] && i == 1) /* keys do not stay behind in freed memory */
            explicit_bzero(pems->text[i], strlen(pems->text[i]));
        free(pems->text[i]);
        pems->text[i] = NULL;
    }
}

static struct stamp stamp_of(const char *path)
{
    struct stat facts;
    if (!path || stat(path, &facts) != 0)
        return (struct stamp){.bytes = -1};
    return (struct stamp){facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtim};
}

static bool is_same(const struct stamp *a, const struct stamp *b)
{
    return a->device == b->device && a->inode == b->inode && a->bytes == b->bytes &&
           a->changed.tv_sec == b->changed.tv_sec && a->changed.tv_nsec == b->changed.tv_nsec;
}

static bool is_changed(const struct dip__rpc_tls_use *use)
{
    for (int i = 0; i < FILES; i++) {
        struct stamp now = stamp_of(use->tls->paths[i]);
        if (!is_same(&now, &use->stamps[i]))
            return true;
    }
    return false;
}

/* The stamps are taken first: a file that changes while it is read looks changed next time. */
static enum dip_status load(const struct dip_rpc_tls *tls, struct dip_why *why, struct pems *pems)
{
    enum dip_status status = DIP_OK;
    memset(pems, 0, sizeof *pems);
    for (int i = 0; i < FILES; i++)
        pems->stamps[i] = stamp_of(tls->paths[i]);
    for (int i = 0; i < FILES && !status; i++) {
        size_t bytes;
        if (tls->paths[i])
            status = dip_file_read(tls->paths[i], PEM_BYTES_MAX, why, &pems->text[i], &bytes);
    }
    if (!status && pems->text[0])
        status = check_pair(tls, pems, why);
    if (!status && pems->text[2])
        status = check_roots(tls, pems, why);
    if (status)
        pems_free(pems);
    return status;
}

enum dip_status dip_rpc_tls_open(const struct dip_rpc_tls_files *files, struct dip_why *why,
                                 struct dip_rpc_tls **ret_tls)
{
    enum dip_status status = DIP_NO_MEMORY;
    struct pems pems;
    const char *const paths[FILES] = {files->cert, files->key, files->ca};
    if (!files->cert != !files->key)
        return dip_fail(why, DIP_INVALID, "a certificate and its key are given together");
    struct dip_rpc_tls *tls = calloc(1, sizeof *tls);
    if (!tls)
        goto out;
    for (int i = 0; i < FILES; i++) {
        tls->paths[i] = paths[i] ? strdup(paths[i]) : NULL;
        if (paths[i] && !tls->paths[i])
            goto out;
    }
    status = load(tls, why, &pems);
    if (status)
        goto out;
    pems_free(&pems);
    *ret_tls = tls;
    tls = NULL;
out:
    dip_rpc_tls_close(tls);
    return status;
}

void dip_rpc_tls_close(struct dip_rpc_tls *tls)
{
    if (!tls)
        return;
    for (int i = 0; i < FILES; i++)
        free(tls->paths[i]);
    free(tls);
}

/* ---- for servers and channels ---- */

static enum dip_status use_new(const struct dip_rpc_tls *tls, struct dip__rpc_tls_use **ret_use)
{
    struct dip__rpc_tls_use *use = calloc(1, sizeof *use);
    if (!use)
        return DIP_NO_MEMORY;
    use->tls = tls;
    *ret_use = use;
    return DIP_OK;
}

void dip__rpc_tls_use_free(struct dip__rpc_tls_use *use)
{
    free(use);
}

bool dip__rpc_tls_is_changed(const struct dip__rpc_tls_use *use)
{
    return is_changed(use);
}

/* gRPC asks at the start and at every new connection. */
static grpc_ssl_certificate_config_reload_status
fetch(void *context, grpc_ssl_server_certificate_config **ret_config)
{
    struct dip__rpc_tls_use *use = context;
    struct pems pems;
    if (use->is_loaded && !is_changed(use))
        return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    if (load(use->tls, NULL, &pems))
        return use->is_loaded ? GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED
                              : GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_FAIL;
    grpc_ssl_pem_key_cert_pair pair = {pems.text[1], pems.text[0]};
    *ret_config = grpc_ssl_server_certificate_config_create(pems.text[2], &pair, 1);
    memcpy(use->stamps, pems.stamps, sizeof use->stamps);
    use->is_loaded = true;
    pems_free(&pems);
    return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
}

enum dip_status dip__rpc_tls_server(const struct dip_rpc_tls *tls, struct dip_why *why,
                                    struct dip__rpc_tls_use **ret_use,
                                    grpc_server_credentials **ret_credentials)
{
    if (!tls->paths[0])
        return dip_fail(why, DIP_INVALID, "a server needs a certificate and its key");
    DIP_TRY(use_new(tls, ret_use));
    grpc_ssl_client_certificate_request_type request =
        tls->paths[2] ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                      : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE;
    *ret_credentials = grpc_ssl_server_credentials_create_with_options(
        grpc_ssl_server_credentials_create_options_using_config_fetcher(request, fetch, *ret_use));
    dip_assert(*ret_credentials);
    return DIP_OK;
}

enum dip_status dip__rpc_tls_channel(const struct dip_rpc_tls *tls, struct dip_why *why,
                                     struct dip__rpc_tls_use **ret_use,
                                     grpc_channel_credentials **ret_credentials)
{
    struct pems pems;
    struct dip__rpc_tls_use *use;
    DIP_TRY(load(tls, why, &pems));
    enum dip_status status = use_new(tls, &use);
    if (!status) {
        grpc_ssl_pem_key_cert_pair pair = {pems.text[1], pems.text[0]};
        memcpy(use->stamps, pems.stamps, sizeof use->stamps);
        use->is_loaded = true;
        *ret_credentials =
            grpc_ssl_credentials_create_ex(pems.text[2], pems.text[0] ? &pair : NULL, NULL, NULL);
        *ret_use = use;
    }
    pems_free(&pems);
    return status;
}
