/* tests/e2e/etcd_cluster.h - real etcd processes for one test: on loopback, on free ports, in a
 * temporary folder, ended by their process ids. */
#pragma once

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CLUSTER_NODES_MAX = 3, CLUSTER_ARGUMENTS_MAX = 40 };

struct cluster {
    char folder[64];
    int node_count;
    int client_ports[CLUSTER_NODES_MAX], peer_ports[CLUSTER_NODES_MAX];
    pid_t pids[CLUSTER_NODES_MAX]; /* 0 = not running */
    const char *const *options;    /* more arguments for every node, NULL at the end */
    const char *scheme;            /* of the client port */
};

/* Nobody else takes it in the moment before etcd does, or the test says so and fails. */
static inline int free_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t bytes = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, bytes) != 0 ||
        getsockname(fd, (struct sockaddr *)&address, &bytes) != 0) {
        perror("free port");
        exit(1);
    }
    close(fd);
    return ntohs(address.sin_port);
}

static inline void cluster_start_node(struct cluster *c, int node)
{
    char words[CLUSTER_ARGUMENTS_MAX][400];
    char *arguments[CLUSTER_ARGUMENTS_MAX + 1];
    int count = 0;
    const char *scheme = c->scheme ? c->scheme : "http";
    char peers[300] = "";
    for (int i = 0; i < c->node_count; i++)
        snprintf(peers + strlen(peers), sizeof peers - strlen(peers), "%sn%d=http://127.0.0.1:%d",
                 i > 0 ? "," : "", i, c->peer_ports[i]);
    snprintf(words[count++], 400, "etcd");
    snprintf(words[count++], 400, "--name=n%d", node);
    snprintf(words[count++], 400, "--data-dir=%s/n%d", c->folder, node);
    snprintf(words[count++], 400, "--listen-client-urls=%s://127.0.0.1:%d", scheme,
             c->client_ports[node]);
    snprintf(words[count++], 400, "--advertise-client-urls=%s://127.0.0.1:%d", scheme,
             c->client_ports[node]);
    snprintf(words[count++], 400, "--listen-peer-urls=http://127.0.0.1:%d", c->peer_ports[node]);
    snprintf(words[count++], 400, "--initial-advertise-peer-urls=http://127.0.0.1:%d",
             c->peer_ports[node]);
    snprintf(words[count++], 400, "--initial-cluster=%s", peers);
    for (const char *const *option = c->options; option && *option; option++)
        snprintf(words[count++], 400, "%s", *option);
    for (int i = 0; i < count; i++)
        arguments[i] = words[i];
    arguments[count] = NULL;
    pid_t pid = fork();
    if (pid == 0) {
        char log[128];
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        snprintf(log, sizeof log, "%s/n%d.log", c->folder, node);
        int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
        dup2(fd, 1);
        dup2(fd, 2);
        execvp("etcd", arguments);
        _exit(127);
    }
    c->pids[node] = pid;
}

static inline void cluster_open(struct cluster *c, int node_count)
{
    snprintf(c->folder, sizeof c->folder, "/tmp/diptych-etcd-XXXXXX");
    if (!mkdtemp(c->folder)) {
        perror("mkdtemp");
        exit(1);
    }
    c->node_count = node_count;
    for (int i = 0; i < node_count; i++) {
        c->client_ports[i] = free_port();
        c->peer_ports[i] = free_port();
    }
}

static inline void cluster_start(struct cluster *c)
{
    for (int i = 0; i < c->node_count; i++)
        cluster_start_node(c, i);
}

static inline void cluster_signal(struct cluster *c, int node, int number)
{
    if (c->pids[node] > 0)
        kill(c->pids[node], number);
}

/* 'R', 'S', 'T' ... of one thread; 0 when it is gone. */
static inline char thread_state(pid_t pid, const char *thread)
{
    char path[300];
    char line[256] = "";
    snprintf(path, sizeof path, "/proc/%d/task/%s/stat", (int)pid, thread);
    FILE *file = fopen(path, "r");
    if (!file)
        return 0;
    const char *name_end = fgets(line, sizeof line, file) ? strrchr(line, ')') : NULL;
    fclose(file);
    return name_end ? name_end[2] : 0;
}

/* Returns when every thread stands still: the signal only asks them to, and on a busy machine a
 * node goes on for a while and answers the very call that was to find it frozen. */
static inline void cluster_freeze(struct cluster *c, int node)
{
    char path[64];
    int moving = 1;
    cluster_signal(c, node, SIGSTOP);
    snprintf(path, sizeof path, "/proc/%d/task", (int)c->pids[node]);
    while (moving > 0) {
        DIR *folder = opendir(path);
        if (!folder) {
            perror(path);
            exit(1);
        }
        moving = 0;
        for (const struct dirent *entry; (entry = readdir(folder));) {
            char state = entry->d_name[0] == '.' ? 'T' : thread_state(c->pids[node], entry->d_name);
            moving += state != 0 && state != 'T';
        }
        closedir(folder);
        usleep(1000);
    }
}

static inline void cluster_kill(struct cluster *c, int node)
{
    if (c->pids[node] <= 0)
        return;
    kill(c->pids[node], SIGKILL);
    waitpid(c->pids[node], NULL, 0);
    c->pids[node] = 0;
}

static inline int cluster_remove(const char *path, const struct stat *about, int type,
                                 struct FTW *place)
{
    (void)about;
    (void)type;
    (void)place;
    return remove(path);
}

static inline void cluster_close(struct cluster *c)
{
    for (int i = 0; i < c->node_count; i++)
        cluster_kill(c, i);
    nftw(c->folder, cluster_remove, 16, FTW_DEPTH | FTW_PHYS);
}

/* "http://127.0.0.1:1,http://127.0.0.1:2", the text lives with the caller's buffer. */
static inline const char *cluster_endpoints(const struct cluster *c, char text[300])
{
    text[0] = '\0';
    for (int i = 0; i < c->node_count; i++)
        snprintf(text + strlen(text), 300 - strlen(text), "%s%s://127.0.0.1:%d", i > 0 ? "," : "",
                 c->scheme ? c->scheme : "http", c->client_ports[i]);
    return text;
}

/* Runs a program to its end; its words go to a file in the cluster's folder. */
static inline int cluster_run(const struct cluster *c, const char *const *arguments)
{
    pid_t pid = fork();
    int status = 0;
    if (pid == 0) {
        char log[128];
        snprintf(log, sizeof log, "%s/run.log", c->folder);
        int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
        dup2(fd, 1);
        dup2(fd, 2);
        setenv("ETCDCTL_API", "3", 1);
        execvp(arguments[0], (char *const *)arguments);
        _exit(127);
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}
