/* Both ends of the benchmark, with the forwarder between them: the server, and the loads.
 *
 *   load serve                                     prints the port it listens on
 *   load syslog PATH                               reads lines from a datagram socket, and counts them
 *   load connect  PORT AT_ONCE      COUNT  SECONDS connections: open, 64 bytes there and back, close
 *   load messages PORT CONNECTIONS  ACTIVE SECONDS 64 bytes there and back, on ACTIVE of the connections
 *   load bulk     PORT STREAMS      BYTES  SECONDS bytes from the server, checked on arrival
 *   load stall    PORT CONNECTIONS  BYTES  SECONDS asks for BYTES on each, and reads nothing
 *
 * A load opens its connections, sends a message over each and prints a line of JSON. Then each line
 * on standard input starts one run, which ends after COUNT or SECONDS and prints one more. At the end of
 * standard input everything closes. Only 127.0.0.1; SIGALRM ends what takes far too long.
 * For `syslog`, each line on standard input has it print how many datagrams it has read.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
    MESSAGE = 64,
    CHUNK = 256 * 1024,        /* what one send or recv may move */
    REQUEST = 16 * 1024 * 1024, /* bulk is asked for in parts, so that a run can end in time */
    PERIOD = 251,              /* of the pattern: a prime, so that a lost page shows */
    STALLED_BUFFER = 32 * 1024,
    SEGMENT = 1460,
    OPENING_AT_ONCE = 64,
    MAX_CONNECTIONS = 20000,
    MAX_SAMPLES = 4000000,
    EVENTS = 256,
    SERVE_SECONDS = 1200,
    FIRST_USUAL_PORT = 20000,
    USUAL_PORTS = 12000,
    OPEN_SECONDS = 60,
    GRACE_SECONDS = 15,
};

struct conn {
    int fd;
    int got;                /* bytes of the message that is coming in */
    int sent;               /* whether our message is under way */
    int watches_writing;    /* server: waits for room, not for a request */
    uint64_t left;          /* bulk bytes still to send or to get */
    uint64_t offset;        /* where in the pattern */
    uint64_t asked_ns;
    unsigned char in[MESSAGE];
};

static unsigned char pattern[CHUNK + PERIOD], bulk[CHUNK];
static struct epoll_event events[EVENTS];
static struct conn *conns;
static int epoll_fd, port, active;
static uint64_t errors;
static char first_error[120];
static uint32_t *samples; /* nanoseconds each */
static uint64_t sample_count;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

/* A run with an error counts for nothing, so the first one is what matters. */
static void fail(const char *format, ...) {
    va_list args;
    if (errors++)
        return;
    va_start(args, format);
    vsnprintf(first_error, sizeof first_error, format, args);
    va_end(args);
}

static void watch(struct conn *c, int fd, int operation, uint32_t what) {
    struct epoll_event event = {.events = what, .data.ptr = c};
    if (epoll_ctl(epoll_fd, operation, fd, &event))
        die("epoll_ctl");
}

static struct sockaddr_in loopback(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

static void no_delay(int fd) {
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
}

/* ---- the server: the first byte of a message says what is wanted */

static void serve_bulk(struct conn *c) {
    size_t size = c->left < CHUNK ? (size_t)c->left : CHUNK;
    ssize_t n = send(c->fd, pattern + c->offset % PERIOD, size, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN) {
        close(c->fd);
        free(c);
        return;
    }
    if (n > 0) {
        c->left -= (uint64_t)n;
        c->offset += (uint64_t)n;
    }
    int wants_room = c->left > 0;
    if (wants_room != c->watches_writing) {
        watch(c, c->fd, EPOLL_CTL_MOD, wants_room ? EPOLLOUT : EPOLLIN);
        c->watches_writing = wants_room;
    }
}

static int serve_message(struct conn *c) {
    switch (c->in[0]) {
    case 'E': /* echo */
        return send(c->fd, c->in, MESSAGE, MSG_NOSIGNAL) == MESSAGE;
    case 'S': /* as D, with small kernel buffers: the reader will stall */
        setsockopt(c->fd, SOL_SOCKET, SO_SNDBUF, &(int){STALLED_BUFFER}, sizeof(int));
        /* fall through */
    case 'D': /* down: as many bytes as it says */
        memcpy(&c->left, c->in + 8, sizeof c->left);
        serve_bulk(c);
        return 1;
    }
    return 0;
}

static void serve_event(struct conn *c) {
    if (c->left > 0) {
        serve_bulk(c);
        return;
    }
    ssize_t n = recv(c->fd, c->in + c->got, (size_t)(MESSAGE - c->got), 0);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n > 0) {
        c->got = (c->got + (int)n) % MESSAGE;
        if (c->got != 0 || serve_message(c))
            return;
    }
    close(c->fd);
    free(c);
}

static void serve_accept(int listener) {
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        struct conn *c = calloc(1, sizeof *c);
        if (!c)
            die("calloc");
        no_delay(fd);
        c->fd = fd;
        watch(c, fd, EPOLL_CTL_ADD, EPOLLIN);
    }
}

static int serve(void) {
    static struct conn listener_mark, stdin_mark;
    struct sockaddr_in address = loopback();
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), failed = -1;
    /* As services do, below the ports that the kernel gives to clients (32768 and up, unless
       configured): of others monconn asks for each connection whether it has met itself. */
    for (int i = 0; i < USUAL_PORTS && failed; i++) {
        int port = FIRST_USUAL_PORT + (getpid() + i) % USUAL_PORTS;
        address.sin_port = htons((uint16_t)port);
        failed = bind(listener, (struct sockaddr *)&address, sizeof address);
    }
    if (failed || listen(listener, 4096))
        die("listen");
    watch(&listener_mark, listener, EPOLL_CTL_ADD, EPOLLIN);
    watch(&stdin_mark, STDIN_FILENO, EPOLL_CTL_ADD, EPOLLIN);
    alarm(SERVE_SECONDS);
    printf("{\"port\": %d}\n", ntohs(address.sin_port));
    fflush(stdout);
    for (;;) {
        int count = epoll_wait(epoll_fd, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            struct conn *c = events[i].data.ptr;
            if (c == &stdin_mark)
                return 0;
            if (c == &listener_mark)
                serve_accept(listener);
            else
                serve_event(c);
        }
    }
}

/* ---- the syslog: reads what a forwarder logs, as it would wait for a reader, or lose lines */

static int read_syslog(const char *path) {
    static struct conn socket_mark, stdin_mark;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    char line[16];
    uint64_t lines = 0;
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address))
        die("bind");
    watch(&socket_mark, fd, EPOLL_CTL_ADD, EPOLLIN);
    watch(&stdin_mark, STDIN_FILENO, EPOLL_CTL_ADD, EPOLLIN);
    setpriority(PRIO_PROCESS, 0, -20); /* if it may: the queue has room for 10 lines by default */
    alarm(SERVE_SECONDS);
    for (int is_asked = 1;;) {
        while (recv(fd, bulk, CHUNK, 0) >= 0)
            lines++;
        if (is_asked) {
            printf("{\"lines\": %llu}\n", (unsigned long long)lines);
            fflush(stdout);
        }
        is_asked = 0;
        int count = epoll_wait(epoll_fd, events, EVENTS, -1);
        for (int i = 0; i < count; i++)
            is_asked |= events[i].data.ptr == &stdin_mark;
        if (is_asked && read(STDIN_FILENO, line, sizeof line) <= 0)
            return 0;
    }
}

/* ---- what the loads share */

static void drop(struct conn *c) {
    close(c->fd);
    c->fd = -1;
}

static void ask(struct conn *c, char letter, uint64_t bytes) {
    unsigned char message[MESSAGE] = {(unsigned char)letter};
    memcpy(message + 8, &bytes, sizeof bytes);
    c->asked_ns = now_ns();
    if (send(c->fd, message, MESSAGE, MSG_NOSIGNAL) != MESSAGE) {
        fail("send: %s", strerror(errno));
        drop(c);
    }
}

/* Begin to connect; 1 if that is under way. */
static int start(struct conn *c, int receive_buffer) {
    struct sockaddr_in address = loopback();
    memset(c, 0, sizeof *c);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0)
        die("socket");
    no_delay(c->fd);
    if (receive_buffer) { /* and Ethernet's segments, or the kernel sets megabytes aside for each */
        setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof(int));
        setsockopt(c->fd, IPPROTO_TCP, TCP_MAXSEG, &(int){SEGMENT}, sizeof(int));
    }
    c->asked_ns = now_ns();
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address) && errno != EINPROGRESS) {
        fail("connect: %s", strerror(errno));
        drop(c);
        return 0;
    }
    watch(c, c->fd, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT | EPOLLET);
    return 1;
}

/* Read what there is of the answer to a message; 1 once it is whole, or the connection is lost. */
static int answered(struct conn *c) {
    while (c->got < MESSAGE) {
        ssize_t n = recv(c->fd, c->in + c->got, (size_t)(MESSAGE - c->got), 0);
        if (n < 0 && errno == EAGAIN)
            return 0;
        if (n <= 0) {
            fail("answer: %s", n ? strerror(errno) : "the connection was closed");
            drop(c);
            return 1;
        }
        c->got += (int)n;
    }
    c->got = 0;
    if (c->in[0] != 'E')
        fail("answer: not what was sent");
    return 1;
}

/* Take a connection on its way through connect, message, answer; 1 when it is there or lost. */
static int greeted(struct conn *c, uint32_t happened) {
    if (!c->sent && (happened & (EPOLLOUT | EPOLLERR | EPOLLHUP))) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error) {
            fail("connect: %s", strerror(error));
            drop(c);
            return 1;
        }
        uint64_t asked_ns = c->asked_ns; /* the time counts from connect */
        c->sent = 1;
        ask(c, 'E', 0);
        c->asked_ns = asked_ns;
        if (c->fd < 0)
            return 1;
    }
    return c->sent && answered(c);
}

static void open_all(int count, int receive_buffer) {
    int started = 0, done = 0;
    while (done < count && !errors) {
        while (started < count && started - done < OPENING_AT_ONCE && !errors)
            start(&conns[started++], receive_buffer);
        int n = epoll_wait(epoll_fd, events, EVENTS, 1000);
        for (int i = 0; i < n; i++)
            done += greeted(events[i].data.ptr, events[i].events);
    }
}

static void sample(uint64_t since_ns) {
    uint64_t taken_ns = now_ns() - since_ns;
    if (sample_count < MAX_SAMPLES)
        samples[sample_count++] = taken_ns < UINT32_MAX ? (uint32_t)taken_ns : UINT32_MAX;
}

static int by_size(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static double percentile_us(int percent) {
    return sample_count ? samples[(sample_count - 1) * (uint64_t)percent / 100] / 1e3 : 0;
}

static void print_result(uint64_t done, uint64_t since_ns) {
    double seconds = (double)(now_ns() - since_ns) / 1e9;
    qsort(samples, sample_count, sizeof *samples, by_size);
    printf("{\"done\": %llu, \"seconds\": %.6f, \"p50_us\": %.2f, \"p99_us\": %.2f, "
           "\"errors\": %llu, \"first_error\": \"%s\"}\n",
           (unsigned long long)done, seconds, percentile_us(50), percentile_us(99),
           (unsigned long long)errors, first_error);
    fflush(stdout);
    sample_count = 0;
}

/* ---- the loads: each does at most `limit`, until `end_ns`, and says how much it did */

static uint64_t run_connect(int at_once, uint64_t limit, uint64_t end_ns) {
    uint64_t started = 0, done = 0;
    while (started < limit && started < (uint64_t)at_once && !errors)
        start(&conns[started++], 0);
    while (done < started && !errors) {
        int n = epoll_wait(epoll_fd, events, EVENTS, 1000);
        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;
            if (!greeted(c, events[i].events) || c->fd < 0)
                continue;
            sample(c->asked_ns);
            drop(c);
            done++;
            if (started < limit && now_ns() < end_ns)
                started += (uint64_t)start(c, 0);
        }
    }
    return done;
}

static uint64_t run_messages(uint64_t end_ns) {
    uint64_t asked = 0, done = 0;
    for (; asked < (uint64_t)active; asked++)
        ask(&conns[asked], 'E', 0);
    while (done < asked && !errors) {
        int n = epoll_wait(epoll_fd, events, EVENTS, 1000);
        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;
            if (!answered(c) || c->fd < 0)
                continue;
            sample(c->asked_ns);
            done++;
            if (now_ns() < end_ns) {
                ask(c, 'E', 0);
                asked++;
            }
        }
    }
    return done;
}

/* Ask for more before the last part is all here, so that the stream never runs dry. */
static uint64_t ask_bulk(struct conn *c, uint64_t unasked) {
    uint64_t size = unasked < REQUEST ? unasked : REQUEST;
    ask(c, 'D', size);
    c->left += size;
    return size;
}

static uint64_t run_bulk(int streams, uint64_t limit, uint64_t end_ns) {
    uint64_t unasked = limit, done = 0;
    int under_way = streams;
    for (int i = 0; i < streams; i++)
        unasked -= ask_bulk(&conns[i], unasked / (uint64_t)(streams - i));
    while (under_way > 0 && !errors) {
        int n = epoll_wait(epoll_fd, events, EVENTS, 1000);
        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;
            ssize_t size = recv(c->fd, bulk, CHUNK, 0);
            if (size < 0 && errno == EAGAIN)
                continue;
            if (size <= 0 || (uint64_t)size > c->left || bulk[0] != c->offset % PERIOD ||
                bulk[size - 1] != (c->offset + (uint64_t)size - 1) % PERIOD) {
                fail("bulk: %s", size <= 0 ? "the connection was closed" : "bytes are not the server's");
                break;
            }
            c->left -= (uint64_t)size;
            c->offset += (uint64_t)size;
            done += (uint64_t)size;
            if (unasked && c->left < REQUEST / 2 && now_ns() < end_ns)
                unasked -= ask_bulk(c, unasked);
            under_way -= c->left == 0;
        }
    }
    return done;
}

static uint64_t run_stall(int count, uint64_t bytes) {
    for (int i = 0; i < count; i++)
        ask(&conns[i], 'S', bytes);
    return (uint64_t)count;
}

static int load(const char *mode, int connections, uint64_t limit, double seconds) {
    int is_connect = !strcmp(mode, "connect"), is_messages = !strcmp(mode, "messages");
    int is_bulk = !strcmp(mode, "bulk"), is_stall = !strcmp(mode, "stall");
    char line[16];
    if (!is_connect && !is_messages && !is_bulk && !is_stall)
        return 2;
    active = is_messages && limit < (uint64_t)connections ? (int)limit : connections;
    alarm(OPEN_SECONDS);
    uint64_t since_ns = now_ns();
    if (!is_connect)
        open_all(connections, is_stall ? STALLED_BUFFER : 0);
    for (int i = 0; i < connections && is_bulk && !errors; i++)
        watch(&conns[i], conns[i].fd, EPOLL_CTL_MOD, EPOLLIN);
    print_result((uint64_t)connections, since_ns);
    alarm(SERVE_SECONDS);
    while (!errors && fgets(line, sizeof line, stdin)) {
        uint64_t end_ns = now_ns() + (uint64_t)(seconds * 1e9), done;
        alarm((unsigned)seconds + GRACE_SECONDS);
        since_ns = now_ns();
        if (is_connect)
            done = run_connect(connections, limit, end_ns);
        else if (is_messages)
            done = run_messages(end_ns);
        else if (is_bulk)
            done = run_bulk(connections, limit, end_ns);
        else
            done = run_stall(connections, limit);
        print_result(done, since_ns);
        alarm(SERVE_SECONDS);
    }
    return errors > 0;
}

int main(int argc, char **argv) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    for (int i = 0; i < CHUNK + PERIOD; i++)
        pattern[i] = (unsigned char)(i % PERIOD);
    epoll_fd = epoll_create1(0);
    if (argc == 2 && !strcmp(argv[1], "serve"))
        return serve();
    if (argc == 3 && !strcmp(argv[1], "syslog"))
        return read_syslog(argv[2]);
    if (argc != 6)
        return 2;
    int connections = atoi(argv[3]);
    double seconds = atof(argv[5]);
    port = atoi(argv[2]);
    if (connections < 1 || connections > MAX_CONNECTIONS || seconds < 0 || seconds > 60)
        return 2;
    conns = calloc((size_t)connections, sizeof *conns);
    samples = malloc(MAX_SAMPLES * sizeof *samples);
    if (!conns || !samples)
        die("malloc");
    return load(argv[1], connections, strtoull(argv[4], NULL, 10), seconds);
}
