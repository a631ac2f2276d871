/* cli/paths.c - see cli/paths.h. */
#include "cli/paths.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

/* The folder of the running program, without a trailing slash; "." when it cannot be known. */
static void program_folder(char ret_folder[DIP_PATH_BYTES_MAX])
{
    ssize_t bytes = readlink("/proc/self/exe", ret_folder, DIP_PATH_BYTES_MAX - 1);
    ret_folder[bytes > 0 ? bytes : 0] = '\0';
    char *slash = strrchr(ret_folder, '/');
    if (slash)
        *slash = '\0';
    else
        snprintf(ret_folder, DIP_PATH_BYTES_MAX, ".");
}

static bool has_model(const char *path)
{
    char config[DIP_PATH_BYTES_MAX + 16];
    snprintf(config, sizeof config, "%s/config.json", path);
    return access(config, F_OK) == 0;
}

enum dip_status dip__model_find(struct dip_why *why, char ret_path[DIP_PATH_BYTES_MAX])
{
    static const char *const beside[] = {"../../models/demo", "../share/diptych/models/demo"};
    char folder[DIP_PATH_BYTES_MAX], path[DIP_PATH_BYTES_MAX];
    program_folder(folder);
    for (int i = 0; i < 2; i++) {
        int bytes = snprintf(path, sizeof path, "%s/%s", folder, beside[i]);
        if (bytes > 0 && (size_t)bytes < sizeof path && has_model(path)) {
            memcpy(ret_path, path, (size_t)bytes + 1);
            return DIP_OK;
        }
    }
    if (has_model("models/demo")) {
        snprintf(ret_path, DIP_PATH_BYTES_MAX, "models/demo");
        return DIP_OK;
    }
    return dip_fail(why, DIP_NOT_FOUND,
                    "there is no demo model (looked for %s and %s beside the program, and for "
                    "models/demo here); give --model DIR",
                    beside[0], beside[1]);
}

enum dip_status dip__image_path(const char *output, int image_index, int image_count,
                                struct dip_why *why, char ret_path[DIP_PATH_BYTES_MAX])
{
    const char *slash = strrchr(output, '/');
    const char *name = slash ? slash + 1 : output;
    const char *dot = strrchr(name, '.');
    if (!dot || dot == name)
        dot = name + strlen(name);
    int bytes = image_count == 1 ? snprintf(ret_path, DIP_PATH_BYTES_MAX, "%s", output)
                                 : snprintf(ret_path, DIP_PATH_BYTES_MAX, "%.*s-%d%s",
                                            (int)(dot - output), output, image_index, dot);
    if (bytes < 0 || bytes >= DIP_PATH_BYTES_MAX)
        return dip_fail(why, DIP_LIMIT, "--output is longer than %d bytes", DIP_PATH_BYTES_MAX - 1);
    return DIP_OK;
}

static enum dip_status check_folder(const char *folder, const char *option, struct dip_why *why)
{
    struct stat info;
    if (stat(folder, &info) != 0)
        return dip_fail(why, DIP_NOT_FOUND, "%s: there is no folder %s", option, folder);
    if (!S_ISDIR(info.st_mode))
        return dip_fail(why, DIP_INVALID, "%s: %s is not a folder", option, folder);
    if (access(folder, W_OK | X_OK) != 0)
        return dip_fail(why, DIP_IO, "%s: cannot write to the folder %s: %s", option, folder,
                        errno == EROFS ? "read-only file system" : "permission denied");
    return DIP_OK;
}

enum dip_status dip__check_writable(const char *path, const char *option, struct dip_why *why)
{
    char folder[DIP_PATH_BYTES_MAX];
    struct stat info;
    if (strlen(path) >= DIP_PATH_BYTES_MAX)
        return dip_fail(why, DIP_LIMIT, "%s is longer than %d bytes", option,
                        DIP_PATH_BYTES_MAX - 1);
    if (strcmp(path, "-") == 0)
        return dip_fail(why, DIP_INVALID,
                        "%s: - would be a file of that name, for nothing goes to standard output; "
                        "name a file (./- if you mean it)",
                        option);
    bool is_there = stat(path, &info) == 0;
    if (is_there && S_ISDIR(info.st_mode))
        return dip_fail(why, DIP_INVALID, "%s: %s is a folder; name a file", option, path);
    if (is_there && !S_ISREG(info.st_mode)) /* a finished file is renamed over its target */
        return dip_fail(why, DIP_INVALID, "%s: %s is not a file but a device or a pipe", option,
                        path);
    const char *slash = strrchr(path, '/');
    if (slash && slash[1] == '\0')
        return dip_fail(why, DIP_INVALID, "%s: %s names no file", option, path);
    int bytes = slash ? (int)(slash - path) : 0;
    snprintf(folder, sizeof folder, "%.*s", bytes, path);
    return check_folder(!slash ? "." : bytes == 0 ? "/" : folder, option, why);
}

enum dip_status dip__make_folder(const char *path, const char *option, struct dip_why *why)
{
    if (mkdir(path, 0777) != 0 && errno != EEXIST) {
        int error = errno;
        char buffer[128];
        return dip_fail(why, DIP_IO, "%s: cannot make the folder %s: %s", option, path,
                        strerror_r(error, buffer, sizeof buffer));
    }
    return check_folder(path, option, why);
}
